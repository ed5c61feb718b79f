"""The router that one would write first, as a program: a grpc.aio server that calls a grpc.aio server, as bytes.

Started with the address of the server behind it; prints its own.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from bench.load.messages import ECHO, ITEMS
from bench.targets.bare import PATIENT, UNLIMITED


class Proxy(grpc.GenericRpcHandler):
    """Passes the echo's two methods on, without knowing their messages."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
        self._items: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(ITEMS)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == ECHO:
            return grpc.unary_unary_rpc_method_handler(self._unary)
        if handler_call_details.method == ITEMS:
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return None

    async def _unary(self, request: bytes, context: Any) -> bytes:
        return await self._echo(request)

    async def _stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        async for item in self._items(request):
            yield item


async def main(upstream: str) -> None:
    async with grpc.aio.insecure_channel(upstream, options=UNLIMITED) as channel:
        server = grpc.aio.server(options=(*UNLIMITED, *PATIENT))
        server.add_generic_rpc_handlers((Proxy(channel),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
