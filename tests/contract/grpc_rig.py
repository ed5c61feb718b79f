"""A server of either engine, whose methods each test sets, and a channel to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

from serve_core.runtime import engine
from serve_core.runtime.engine import Engine, GrpcServer

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Channel: TypeAlias = Any  # without serializers, its calls take and give bytes, which the stubs do not know
PATIENCE_S = 60.0
LIMIT_BYTES = 64 * 1024
OPTIONS = (("grpc.max_receive_message_length", LIMIT_BYTES), ("grpc.so_reuseport", 0))


class Service(grpc.GenericRpcHandler):
    """Methods by name, each set by its test, and of the kind that the name begins with; or whole handlers."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}
        self.handlers: dict[str, Any] = {}
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        name = handler_call_details.method.rpartition("/")[2]
        if name in self.handlers:
            ready: grpc.RpcMethodHandler[bytes, bytes] = self.handlers[name]
            return ready
        method = self.methods.get(name)
        if method is None:
            return None
        make = {
            "one": grpc.unary_unary_rpc_method_handler,
            "many": grpc.unary_stream_rpc_method_handler,
            "join": grpc.stream_unary_rpc_method_handler,
            "chat": grpc.stream_stream_rpc_method_handler,
        }[name.partition("_")[0]]
        return make(method)

    async def wait(self, request: Any, context: Context) -> bytes:
        """Runs until it is let go or cancelled."""
        self.entered.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"done"


class Rig:
    """A server of one engine, and a channel to it."""

    def __init__(self, server: GrpcServer, service: Service, channel: Channel, running: set[asyncio.Task[Any]]) -> None:
        self.server = server
        self.service = service
        self.channel = channel
        self.running = running

    def method(self, name: str, function: Callable[..., Any]) -> None:
        self.service.methods[name] = function

    async def one(self, name: str = "one", request: bytes = b"x", **options: Any) -> bytes:
        answer: bytes = await self.channel.unary_unary(f"/test.v1.Any/{name}")(request, **options)
        return answer

    def many(self, name: str = "many", request: bytes = b"x", **options: Any) -> Any:
        return self.channel.unary_stream(f"/test.v1.Any/{name}")(request, **options)

    def chat(self, name: str = "chat", **options: Any) -> Any:
        return self.channel.stream_stream(f"/test.v1.Any/{name}")(**options)


@asynccontextmanager
async def serving(
    which: Engine,
    *,
    options: Sequence[tuple[str, Any]] = OPTIONS,
    listen: Callable[[Any], int] = lambda server: int(server.add_insecure_port("127.0.0.1:0")),
    connect: Callable[[int], Channel] = lambda port: grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
) -> AsyncIterator[Rig]:
    """Serves in the block. ``listen`` makes the port and ``connect`` the channel to it."""
    engine.choose({engine.VARIABLE: which})
    try:
        assert engine.chosen() is which
        service, running = Service(), set[asyncio.Task[Any]]()
        server = engine.new_server((), options, running)
        server.add_generic_rpc_handlers((service,))
        port = listen(server)
        await server.start()
        async with asyncio.timeout(PATIENCE_S), connect(port) as channel:
            yield Rig(server, service, channel, running)
            service.let_go.set()
        await server.stop(0)
    finally:
        engine.choose(os.environ)


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def everything(call: Any) -> list[bytes]:
    return [message async for message in call]
