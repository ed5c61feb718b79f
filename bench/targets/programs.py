"""Programs of the benchmarks as processes that answer a line with a line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from bench.measure.errors import MeasurementError

ROOT = Path(__file__).parents[2]
ANSWER_TIMEOUT_S = 120.0
LINE_BYTES_MAX = 1 << 22


class Program:
    """``python -m MODULE ARGUMENTS``, as an async context manager; ``first_line`` is the first that it printed.

    Args:
        module: Which module to run.
        arguments: What it gets.
        python: Which Python runs it.
        env: What its environment has beside ours.
    """

    def __init__(
        self, module: str, *arguments: str, python: str = sys.executable, env: Mapping[str, str] | None = None
    ) -> None:
        self._module = module
        self._command = (python, "-m", module, *arguments)
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._late = False
        self.first_line = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return 0 if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=ROOT,
            env=self._env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        try:
            self.first_line = await self._line()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a line of JSON and reads the line that answers it.

        Raises:
            MeasurementError: It has ended, says that it failed, or does not answer.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        if self._late:
            raise MeasurementError(f"{self._module} did not answer, and what it says now may be the answer to that")
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._line())
        if "error" in answer:
            raise MeasurementError(answer["error"])
        return answer

    async def finish(self, timeout_s: float) -> None:
        """Closes its input, which tells it to end, and waits for that."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(timeout_s):
            await self._process.wait()

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self._late = True
            raise MeasurementError(f"{self._module} does not answer") from None
        if not line:
            raise MeasurementError(f"{self._module} ended with status {await self._process.wait()}")
        return line.decode().strip()
