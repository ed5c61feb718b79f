"""What the tests with real processes serve."""

import asyncio
import os
from collections.abc import AsyncIterator

import serve_core


class Worker:
    """Says who it is, works for a while, counts."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def work(self, seconds: float = 0.0) -> dict[str, int | str]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside -= 1
        return {"pid": os.getpid(), "most": self.most, "replica_id": serve_core.get_replica_context().replica_id}

    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    async def size(self, data: bytes) -> int:
        return len(data)


worker = serve_core.deployment(cpus=0.1, max_ongoing_requests=4, max_start_failures=3)(Worker)
app = worker.bind()
