"""What is served while things change: says which process answered and which version it is, and notes what it ran."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from serve_core import deployment


class Steady:
    """Works for a while.

    Args:
        version: Anything; another one makes another revision.
        journal: A file to which each request is noted before it runs: its number, who runs it, and when (monotonic
            seconds); empty for none.
    """

    def __init__(self, version: int = 1, journal: str = "") -> None:
        self._version = version
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if journal else None

    async def work(self, number: int, seconds: float = 0.0) -> dict[str, Any]:
        """Runs request ``number``."""
        if self._journal is not None:
            os.write(self._journal, f"{number} {os.getpid()} {time.monotonic()}\n".encode())
        if seconds:
            await asyncio.sleep(seconds)
        return {"pid": os.getpid(), "version": self._version}


steady = deployment(Steady, name="Steady", max_ongoing_requests=32, cpus=0.1)
app = steady.bind()
