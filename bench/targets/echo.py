"""The service of the benchmarks, an ordinary grpcio servicer: the same class in every server that is compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from echo.v1 import echo_pb2, echo_pb2_grpc


class Echo(echo_pb2_grpc.EchoServiceServicer):
    """Gives back what it got."""

    async def Echo(self, request: echo_pb2.EchoRequest, context: Any) -> echo_pb2.EchoResponse:
        return echo_pb2.EchoResponse(data=request.data)

    async def Items(self, request: echo_pb2.ItemsRequest, context: Any) -> AsyncIterator[echo_pb2.ItemsResponse]:
        item = echo_pb2.ItemsResponse(data=b"x" * request.size)
        for _ in range(request.count):
            if request.every_ms:
                await asyncio.sleep(request.every_ms / 1000)
            yield item
