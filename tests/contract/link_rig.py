"""A link to a server, in place of a channel: the same methods are called through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from serve_core.link import unix
from serve_core.link.channel import LinkChannel
from serve_core.link.service import LinkService
from serve_core.link.stream import carry_in_stream, serve_stream
from serve_core.runtime import engine
from serve_core.runtime.engine import Engine, GrpcServer
from serve_core.runtime.method_table import CallDetails
from serve_core.v1 import replica_pb2
from tests.contract.grpc_rig import LIMIT_BYTES, PATIENCE_S, Rig, Service

LINK = "/serve_core.v1.ReplicaService/Link"


class Links(grpc.GenericRpcHandler):
    """Serves links to the methods of a service."""

    def __init__(self, service: Service, running: set[asyncio.Task[Any]]) -> None:
        self._service = service
        self.links = LinkService(
            self._find,
            running=running,
            limit_bytes=LIMIT_BYTES,
        )

    def _find(self, path: str) -> Any:
        details: Any = CallDetails(path, ())
        return self._service.service(details)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != LINK:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=replica_pb2.LinkRequest.FromString,
            response_serializer=replica_pb2.LinkResponse.SerializeToString,
        )

    async def _serve(self, requests: Any, context: Any) -> None:
        del requests
        await serve_stream(self.links, context)


class WithIterators:
    """A link's channel whose streams of requests may be given as iterators, as ``grpc.aio`` has it."""

    def __init__(self, link: LinkChannel, group: asyncio.TaskGroup) -> None:
        self.link = link
        self._group = group
        self.unary_unary = link.unary_unary
        self.unary_stream = link.unary_stream

    def stream_unary(self, path: str) -> Any:
        return self._feeding(self.link.stream_unary(path))

    def stream_stream(self, path: str) -> Any:
        return self._feeding(self.link.stream_stream(path))

    def _feeding(self, method: Any) -> Any:
        def make(requests: Iterable[bytes] | AsyncIterator[bytes] | None = None, **options: Any) -> Any:
            call = method(**options)
            if requests is not None:
                self._group.create_task(_feed(call, requests))
            return call

        return make


async def _feed(call: Any, requests: Any) -> None:
    try:
        if hasattr(requests, "__anext__"):
            async for request in requests:
                await call.write(request)
        else:
            for request in requests:
                await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return


class _Stopping:
    """A server whose links end with it."""

    def __init__(self, server: GrpcServer, links: LinkService, running: set[asyncio.Task[Any]]) -> None:
        self._server = server
        self._running = running
        self._links = links
        self.add_insecure_port = server.add_insecure_port
        self.add_secure_port = server.add_secure_port
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers
        self.add_registered_method_handlers = server.add_registered_method_handlers
        self.start = server.start

    async def stop(self, grace: float | None) -> None:
        self._links.close()
        await self._server.stop(grace)
        # As ``serve_core.runtime.server`` does.
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=grace or 0)
        for task in tuple(self._running):
            task.cancel()


@asynccontextmanager
async def in_a_call(plain: grpc.aio.Channel, links: LinkService) -> AsyncIterator[LinkChannel]:
    """A link in a call of gRPC."""
    del links
    link = LinkChannel(plain, limit_bytes=LIMIT_BYTES)
    method: Any = plain.stream_stream(
        LINK, replica_pb2.LinkRequest.SerializeToString, replica_pb2.LinkResponse.FromString
    )
    call = method()
    async with asyncio.TaskGroup() as group:
        carry_in_stream(link, call, group)
        yield link
        link.close()
        call.cancel()


@asynccontextmanager
async def in_a_socket(plain: grpc.aio.Channel, links: LinkService) -> AsyncIterator[LinkChannel]:
    """A link in a Unix domain socket."""
    link = LinkChannel(plain, limit_bytes=LIMIT_BYTES)
    listener = unix.UnixListener(links)
    await listener.start()
    assert await unix.connect(listener.path, listener.secret, link)
    yield link
    link.close()
    await listener.close()


CARRIERS = {"link": in_a_call, "unix": in_a_socket}


@asynccontextmanager
async def linked(which: str) -> AsyncIterator[Rig]:
    """A server that is called through a link with one of the carriers."""
    engine.choose({engine.VARIABLE: Engine.CORE})
    service, running = Service(), set[asyncio.Task[Any]]()
    server = engine.new_server((), (("grpc.so_reuseport", 0),), set())
    handlers = Links(service, running)
    server.add_generic_rpc_handlers((service, handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        asyncio.timeout(PATIENCE_S),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain,
        CARRIERS[which](plain, handlers.links) as link,
        asyncio.TaskGroup() as group,
    ):
        channel: Any = WithIterators(link, group)
        yield Rig(_Stopping(server, handlers.links, running), service, channel, running)
        service.let_go.set()
    await server.stop(0)
