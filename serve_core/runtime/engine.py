"""Which implementation serves gRPC in this process: our own on grpcio's core, or ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_core.runtime import log
from serve_core.runtime.choice import VARIABLE, Engine, asked_for, choose
from serve_core.runtime.core import shape
from serve_core.runtime.core.server import CoreServer

__all__ = ["VARIABLE", "Engine", "GrpcServer", "choose", "chosen", "new_server"]

_log = log.get_logger(__name__)


class GrpcServer(Protocol):
    """The part of ``grpc.aio.Server`` that both have."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Serves what these know."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serves the methods of one service."""

    def add_insecure_port(self, address: str) -> int:
        """Listens. Returns the port."""

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listens with TLS. Returns the port."""

    async def start(self) -> None:
        """Begins to serve."""

    async def stop(self, grace: float | None) -> None:
        """Takes no new call, waits for those that are there, and cancels them after ``grace`` seconds."""


def new_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
    running: set[asyncio.Task[Any]],
) -> GrpcServer:
    """A server of the engine that this process uses. Needs a running event loop.

    Args:
        interceptors: The outermost first.
        options: Channel arguments.
        running: Will hold the tasks that run handlers, as long as they run.
    """
    if chosen() is Engine.CORE:
        return CoreServer(interceptors=interceptors, options=options, running=running)
    server: GrpcServer = grpc.aio.server(interceptors=(_Census(running), *interceptors), options=options)
    return server


def chosen() -> Engine:
    """The engine that this process uses: what was chosen, else our own; ``grpc.aio`` where ours cannot run."""
    return Engine.AIO if asked_for() is Engine.AIO or _why_not() else Engine.CORE


@lru_cache(maxsize=1)
def _why_not() -> str:
    """Why our own cannot run here; empty if it can. Says so once."""
    why = shape.unsupported()
    if why:
        _log.warning("serving with grpc.aio, which is slower", why=why)
    return why


class _Census(grpc.aio.ServerInterceptor):
    """Knows which handlers run. An interceptor runs in the very task that runs the handler."""

    def __init__(self, running: set[asyncio.Task[Any]]) -> None:
        self._running = running

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Count the running task until its end."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await continuation(handler_call_details)
