"""What serve-core serves in the benchmarks: an ordinary grpcio servicer, which is also called by handle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import serve_core
from bench.targets.echo import Echo


class CalledEcho(Echo):
    """Gives back what it got, also to callers in Python."""

    async def echo(self, data: bytes) -> bytes:
        """Gives back the data."""
        return data

    async def same(self, value: Any) -> Any:
        """Gives back any value."""
        return value

    async def tokens(self, count: int, size: int) -> AsyncIterator[str]:
        """So many texts of so many characters, one after the other."""
        for _ in range(count):
            yield "x" * size


class Single:
    """Works for a while, and counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def work(self, seconds: float) -> int:
        """The most that were inside at once so far."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside -= 1
        return self.most


echo = serve_core.deployment(CalledEcho, name="Echo", max_ongoing_requests=512, max_queued_requests=4096, cpus=0.1)
single = serve_core.deployment(Single, name="Single", max_ongoing_requests=1, cpus=0.1)
app = echo.bind()
