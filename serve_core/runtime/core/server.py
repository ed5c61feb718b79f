"""The server: ports, methods, and a stop that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from serve_core.runtime.core.binding import cygrpc
from serve_core.runtime.core.call import ServerCall
from serve_core.runtime.core.completion import CompletionLoop
from serve_core.runtime.core.lookout import Lookout
from serve_core.runtime.eager import EagerTasks
from serve_core.runtime.method_table import CallDetails, MethodTable
from serve_core.runtime.served import ServedCall

CALLS_ASKED_FOR = 32
"""Calls that the core may hand over at once."""

_NOT_XDS = (False,)


class CoreServer:
    """Stands in for ``grpc.aio.Server``. Handlers must be asynchronous functions or generators.

    Args:
        interceptors: The outermost first. With none, a call costs nothing for them.
        options: Channel arguments, as for ``grpc.aio.server``.
        running: Holds the tasks that run handlers, as long as they run; handlers that need not wait have none.
    """

    def __init__(
        self,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        options: Sequence[tuple[str, Any]] = (),
        running: set[asyncio.Task[Any]] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._interceptors = tuple(interceptors)
        self._methods = MethodTable()
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), *_NOT_XDS)
        self._server.register_completion_queue(self._queue)
        self._completion: CompletionLoop | None = None
        self._tasks = EagerTasks(self._loop, set() if running is None else running)
        self._lookout = Lookout(self._loop)
        self._stopping: asyncio.Future[None] | None = None
        self._stopped = False

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Serves what these know, after those that were added before. Those that name their service are asked first, and
        only for its methods.
        """
        self._methods.add_generic(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Serves the methods of one service."""
        self._methods.add_methods(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Listens. Returns the port.

        Raises:
            RuntimeError: Nobody can listen there.
        """
        return self._bound(self._server.add_http2_port(address.encode()), address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listens with TLS. Returns the port.

        Raises:
            RuntimeError: Nobody can listen there.
        """
        credentials: Any = server_credentials
        return self._bound(self._server.add_http2_port(address.encode(), credentials._credentials), address)

    async def start(self) -> None:
        """Begins to serve."""
        self._server.start()
        self._completion = CompletionLoop(self._queue, self._loop)
        for _ in range(CALLS_ASKED_FOR):
            self._ask_for_call()

    async def stop(self, grace: float | None) -> None:
        """Takes no new call, waits for those that are there, and cancels them after ``grace`` seconds.

        Handlers that ignore their cancellation may run on when this returns.
        """
        if self._completion is None:
            return
        if self._stopping is None:
            self._stopping = self._loop.create_future()
            self._lookout.hurry()
            self._server.shutdown(self._queue, self._on_shutdown)
        await asyncio.wait((self._stopping,), timeout=grace or 0.0)
        if not self._stopping.done():
            self._completion.outbox.send()
            self._server.cancel_all_calls()
        await asyncio.shield(self._stopping)
        if not self._stopped:
            self._stopped = True
            self._server.destroy()
            self._tasks.close()
        await self._completion.close()

    def _bound(self, port: int, address: str) -> int:
        if not port:
            raise RuntimeError(f"Failed to bind to address {address}")
        return port

    def _ask_for_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_call)

    def _on_call(self, event: Any) -> None:
        if self._stopping is None:
            self._ask_for_call()
        completion = self._completion
        if not event.success or completion is None or not completion.is_open:
            return  # The server stops.
        call = ServerCall(event, completion, self._tasks, self._lookout)
        if self._interceptors:
            call.serve_found(self._intercepted)
            return
        handler = self._find(call)
        if handler is None:
            call.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        else:
            call.serve(handler)

    def _on_shutdown(self, event: Any) -> None:
        del event
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)

    def _find(self, call: ServedCall) -> Any:
        return self._methods.find(call.method, call.invocation_metadata())

    async def _intercepted(self, call: ServedCall) -> Any:
        async def found(details: grpc.HandlerCallDetails) -> Any:
            del details
            return self._find(call)

        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]] = found
        for interceptor in reversed(self._interceptors):
            continuation = _Link(interceptor, continuation)
        details: Any = CallDetails(call.method, call.invocation_metadata())
        return await continuation(details)


class _Link:
    """One interceptor, with what comes after it."""

    __slots__ = ("_continuation", "_interceptor")

    def __init__(
        self,
        interceptor: grpc.aio.ServerInterceptor,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
    ) -> None:
        self._interceptor = interceptor
        self._continuation = continuation

    async def __call__(self, details: grpc.HandlerCallDetails) -> Any:
        return await self._interceptor.intercept_service(self._continuation, details)
