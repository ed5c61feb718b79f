"""A gRPC server that refuses a taken port, answers bad requests with a reason, and really waits when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

from serve_core.runtime import address, channel, clock, log
from serve_core.runtime.engine import GrpcServer, new_server
from serve_core.runtime.handlers import Abort, GuardedRegistration, MethodHandler, abort_plainly
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.method_table import MethodTable

CANCEL_TIMEOUT_S = 5.0
"""How long cancelled handlers may take to end before ``Server.stop`` leaves them, with an error in the log."""

PENDING_CALLS_MAX = 16_384
"""Calls that wait in the core for the event loop to take them. Of more than 1,000, gRPC's own limit, it would cut off some
with CANCELLED whenever the loop was held up for a moment; slots and queues refuse with a reason."""

_log = log.get_logger(__name__)


class Server:
    """A gRPC server, as every process of ours has one, on the engine that the process uses.

    Args:
        host: The address or name to listen on; "0.0.0.0" or "::" is every interface.
        port: 0 lets the system choose.
        max_message_bytes: The configured limit of one message. gRPC's own is twice that (see ``channel.size_options``).
        reuse_port: Let several processes listen on one port (SO_REUSEPORT). Otherwise a taken port is an error.
        interceptors: grpc.aio server interceptors, the outermost first.
        abort: How to end a call with a ``ServeError``; pass the wire format's own to send details along.
        min_ping_interval_s: Clients that ping more often without data are disconnected.
        max_connection_age_s: Clients are told to connect anew after about this long, without harm to any call; None
            means never.
        probes_bandwidth: See ``channel.probe_options``.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        reuse_port: bool = False,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        abort: Abort = abort_plainly,
        min_ping_interval_s: float = 10.0,
        max_connection_age_s: float | None = None,
        probes_bandwidth: bool = True,
    ) -> None:
        self._host = host
        self._port = port
        self._reuse_port = reuse_port
        self._running: set[asyncio.Task[Any]] = set()
        self._interceptors = tuple(interceptors)
        self._registration = GuardedRegistration(abort)
        self._methods = MethodTable()
        self._raw_handlers: list[grpc.GenericRpcHandler] = []
        self._stop_hooks: list[Callable[[], None]] = []
        self._server: GrpcServer | None = None
        self._options = [
            *channel.size_options(max_message_bytes),
            *channel.probe_options(probes_bandwidth=probes_bandwidth),
            ("grpc.so_reuseport", int(reuse_port)),
            ("grpc.keepalive_time_ms", int(channel.KEEPALIVE_TIME_S * 1000)),
            ("grpc.keepalive_timeout_ms", int(channel.KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", int(min_ping_interval_s * 1000)),
            ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
            ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
        ]
        if max_connection_age_s is not None:
            self._options.append(("grpc.max_connection_age_ms", int(max_connection_age_s * 1000)))

    @property
    def services(self) -> tuple[str, ...]:
        """The full names of the services that were given to ``add``."""
        return self._registration.services

    @property
    def running(self) -> int:
        """How many handlers run now."""
        return len(self._running)

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """The tasks of those handlers. Who runs handlers of this server by itself keeps their tasks here, too."""
        return self._running

    def handler(self, path: str) -> MethodHandler | None:
        """What serves ``/package.Service/Method``; None if nothing does."""
        handler: MethodHandler | None = self._methods.find(path, ())
        return handler

    def add(self, registrar: Callable[[Any, Any], None], servicer: object) -> None:
        """Serve a servicer. Only before ``start``.

        Requests that do not parse are answered with INVALID_ARGUMENT, and a ``ServeError`` that a handler raises with
        its own status. All of the servicer's methods must be asynchronous.

        Args:
            registrar: The generated ``add_X_to_server``.
            servicer: What it takes.

        Raises:
            TypeError: A method is not asynchronous.
        """
        known = len(self._registration.generic_handlers)
        registrar(servicer, self._registration)
        self._methods.add_generic(self._registration.generic_handlers[known:])
        for service, methods in self._registration.registered_handlers.items():
            self._methods.add_methods(service, methods)

    def add_generic_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve what these know, unchanged, after everything that ``add`` added. Only before ``start``."""
        added = list(handlers)
        self._raw_handlers += added
        self._methods.add_generic(added)

    def add_stop_hook(self, hook: Callable[[], None]) -> None:
        """Call this first when stopping: it ends the streams that would otherwise stay open to the end of the grace."""
        self._stop_hooks.append(hook)

    async def start(self) -> str:
        """Listen and serve.

        Returns:
            ``HOST:PORT`` with the host as configured and the port that was taken.

        Raises:
            PortTakenError: Another process listens there.
            ConfigInvalidError: Nobody can listen there: no such host, no permission.
        """
        if self._server is not None:
            raise RuntimeError("a server starts once")
        if self._port and not self._reuse_port:
            await address.check_free(self._host, self._port)
        server = new_server(self._interceptors, self._options, self._running)
        server.add_generic_rpc_handlers((*self._registration.generic_handlers, *self._raw_handlers))
        for service, methods in self._registration.registered_handlers.items():
            server.add_registered_method_handlers(service, methods)
        wanted = address.join(self._host, self._port)
        try:
            port = server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise await address.why_unusable(self._host, self._port) from error
        await server.start()
        self._server = server
        return address.join(self._host, port)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, wait for the running handlers, and cancel those that still run after ``grace_s``.

        When this returns, no handler runs, save one that ignores its cancellation for ``CANCEL_TIMEOUT_S``. May be
        called again, also meanwhile, with a shorter grace.
        """
        if self._server is None:
            return
        until = clock.monotonic() + grace_s
        for hook in self._stop_hooks:
            hook()
        await self._server.stop(grace_s)
        # grpc#37239: it returns when the calls have ended, while handlers of aborted calls may still run.
        await self._settle(until - clock.monotonic())
        for task in tuple(self._running):
            task.cancel()
        await self._settle(CANCEL_TIMEOUT_S)
        if self._running:
            _log.error("handlers do not end after their cancellation", handlers=len(self._running))

    async def _settle(self, timeout_s: float) -> None:
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=max(0.0, timeout_s))
