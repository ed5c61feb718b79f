"""Programs of this folder as processes that answer a line with a line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
ANSWER_TIMEOUT_S = 120.0


class Program:
    """A running program of this folder, as an async context manager; ``first_line`` is the first that it printed."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.first_line = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return 0 if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._arguments, cwd=HERE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self.first_line = await self._line()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def ask(self, line: str) -> str:
        """Writes a line and reads the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self._line()

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"bench/{self._arguments[0]} ended with status {await self._process.wait()}")
        return line.decode().strip()
