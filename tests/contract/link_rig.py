"""A link to a server, in place of a channel: the same methods are called through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from serve_core.link.channel import LinkChannel
from serve_core.link.service import LinkService
from serve_core.link.stream import carry_in_stream, serve_stream
from serve_core.runtime import engine
from serve_core.runtime.core.server import CallDetails
from serve_core.runtime.engine import Engine, GrpcServer
from serve_core.v1 import replica_pb2
from tests.contract.grpc_rig import LIMIT_BYTES, PATIENCE_S, Rig, Service

LINK = "/serve_core.v1.ReplicaService/Link"


class Links(grpc.GenericRpcHandler):
    """Serves links to the methods of a service."""

    def __init__(self, service: Service, running: set[asyncio.Task[Any]]) -> None:
        self._service = service
        self.links = LinkService(
            self._find,
            prompt=frozenset(),
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

    def __init__(self, server: GrpcServer, links: LinkService) -> None:
        self._server = server
        self._links = links
        self.add_insecure_port = server.add_insecure_port
        self.add_secure_port = server.add_secure_port
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers
        self.add_registered_method_handlers = server.add_registered_method_handlers
        self.start = server.start

    async def stop(self, grace: float | None) -> None:
        self._links.close()
        await self._server.stop(grace)


@asynccontextmanager
async def linked(which: Engine) -> AsyncIterator[Rig]:
    """A server of an engine, called through a link in a call of gRPC."""
    engine.choose({engine.VARIABLE: which})
    service, running = Service(), set[asyncio.Task[Any]]()
    server = engine.new_server((), (("grpc.so_reuseport", 0),), set())
    handlers = Links(service, running)
    server.add_generic_rpc_handlers((service, handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with asyncio.timeout(PATIENCE_S), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
        link = LinkChannel(plain, limit_bytes=LIMIT_BYTES)
        async with asyncio.TaskGroup() as group:
            method: Any = plain.stream_stream(
                LINK, replica_pb2.LinkRequest.SerializeToString, replica_pb2.LinkResponse.FromString
            )
            call = method()
            carry_in_stream(link, call, group)
            channel: Any = WithIterators(link, group)
            yield Rig(_Stopping(server, handlers.links), service, channel, running)
            service.let_go.set()
            link.close()
            call.cancel()
    await server.stop(0)
