"""The service under test: an ordinary grpcio servicer, which is also called by handle."""

from __future__ import annotations

import asyncio
from typing import Any

from echo.v1 import echo_pb2, echo_pb2_grpc
from serve_core import deployment


@deployment(name="Echo", max_ongoing_requests=512, max_queued_requests=4096, cpus=0.1)
class Echo(echo_pb2_grpc.EchoServiceServicer):
    """Gives back what it got."""

    async def Echo(self, request: echo_pb2.EchoRequest, context: Any) -> echo_pb2.EchoResponse:
        return echo_pb2.EchoResponse(data=request.data)

    async def echo(self, data: bytes) -> bytes:
        return data


@deployment(name="Single", max_ongoing_requests=1, cpus=0.1)
class Single:
    """Works for a while, and counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    async def work(self, seconds: float) -> int:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside -= 1
        return self.most


app = Echo.bind()
single = Single.bind()
