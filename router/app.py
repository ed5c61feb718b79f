"""The router process, put together: what is there, in which order it starts, and how it ends."""

from __future__ import annotations

import random
import secrets
import socket
from contextlib import AsyncExitStack

from aiohttp import web

from router.admin import AdminPages, json_errors
from router.calls import Calls
from router.config import RouterConfig
from router.directory import Directory
from router.forward import Router
from router.gate import Gate
from router.http import HttpEntrance
from router.http_calls import HttpCalls
from router.ingress import Ingress
from router.observe import Observer
from router.observed import ObservedServicer
from router.passthrough import Passthrough
from router.service import RouterService
from router.watcher import Watcher
from serve_core.errors import ControllerUnreachableError, PortTakenError
from serve_core.model.ids import RouterId
from serve_core.runtime import address, process
from serve_core.runtime.clock import monotonic
from serve_core.runtime.log import get_logger
from serve_core.runtime.metrics import LoopLag, new_registry
from serve_core.runtime.server import Server
from serve_core.runtime.standard import StandardServices, add_standard_services
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import router_pb2_grpc
from serve_core.wire.errors import abort

ROUTER_SERVICE = "serve_core.v1.RouterService"
CANCEL_GRACE_S = 0.1
"""Seconds between the last answer of a drain, or the end of its budget, and the end of every connection."""

FIRST_TABLE_WARNING_S = 10.0

_log = get_logger(__name__)


async def serve(config: RouterConfig, signals: process.Signals) -> int:
    """Runs a router until it is told to stop; gives its exit status.

    Raises:
        PortTakenError: Another process listens on one of its ports.
        ConfigInvalidError: Nobody can listen there.
    """
    async with Supervisor("router") as tasks:
        app = RouterApp(config, tasks)
        try:
            await app.start()
            process.announce("router", address=app.address, http_address=app.http_address, router_id=config.router_id)
            await signals.stop.wait()
            await app.drain()
        finally:
            await app.close()
    return 0


class RouterApp:
    """One router with its servers.

    Attributes:
        address: ``host:port`` of the gRPC server, once started.
        http_address: ``host:port`` of the HTTP server, once started.
    """

    def __init__(self, config: RouterConfig, tasks: Supervisor) -> None:
        self.address = ""
        self.http_address = ""
        self._config = config
        self._tasks = tasks
        self._registry = new_registry("router")
        self._gate = Gate(config.router_id)
        self._router = Router(
            router_id=RouterId(config.router_id), tasks=tasks, max_message_bytes=config.max_message_bytes
        )
        self._observer = Observer(
            self._registry, monotonic=monotonic, access_log=_log_access if config.access_log else None
        )
        self._observer.watch(self._router)
        self._server = Server(
            config.host,
            config.port,
            max_message_bytes=config.max_message_bytes,
            reuse_port=config.reuse_port,
            abort=abort,
        )
        self._standard = self._add_services()
        self._directory = Directory(self._standard.health, self._standard.reflection)
        self._opened = AsyncExitStack()

    async def start(self) -> None:
        """Listens, then subscribes to the controller's table.

        Raises:
            PortTakenError, ConfigInvalidError: It cannot listen. Call ``close`` all the same.
        """
        listening = _http_socket(self._config)
        self._opened.callback(listening.close)
        await self._start_grpc()
        await self._start_http(listening)
        watcher = Watcher(
            self._router,
            self._config.controller,
            address=self.address,
            http_address=self.http_address,
            unit_random=random.Random().random,
            max_message_bytes=self._config.max_message_bytes,
        )
        self._tasks.spawn(LoopLag(self._registry).run(), name="loop lag")
        self._tasks.spawn(self._follow_table(), name="follow the table")
        self._tasks.spawn(watcher.run(), name="watch endpoints")
        self._tasks.spawn(_say_what_is_missing(watcher), name="first table")

    async def drain(self) -> None:
        """Takes nothing new, and waits for what runs, within the configured budget."""
        self._standard.health.shut_down()
        self._gate.close()
        _log.info("draining", running=self._gate.inside, timeout_s=self._config.drain_timeout_s)
        if not await self._gate.drained(self._config.drain_timeout_s):
            _log.warning("the drain's budget is over: cancelling what still runs", running=self._gate.inside)

    async def close(self) -> None:
        """Ends every connection, with what is still on it."""
        self._gate.close()
        await self._opened.aclose()
        await self._router.close()

    def _add_services(self) -> StandardServices:
        config = self._config
        service = ObservedServicer(
            RouterService(self._router, self._tasks),
            service=ROUTER_SERVICE,
            gate=self._gate,
            observer=self._observer,
        )
        self._server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, service)
        standard = add_standard_services(self._server)
        ingress = Ingress(
            self._router,
            Passthrough(self._router, self._observer),
            gate=self._gate,
            observer=self._observer,
            max_message_bytes=config.max_message_bytes,
            new_request_id=_new_request_id,
        )
        self._server.add_generic_handlers([ingress])
        return standard

    async def _start_grpc(self) -> None:
        try:
            self.address = await self._server.start()
        except PortTakenError as error:
            raise _named(error, "gRPC", "--port") from None
        self._opened.push_async_callback(self._server.stop, CANCEL_GRACE_S)

    async def _start_http(self, listening: socket.socket) -> None:
        app = web.Application(client_max_size=self._config.max_message_bytes, middlewares=[json_errors])
        entrance = HttpEntrance(
            HttpCalls(self._router, Calls(self._router, self._tasks)),
            gate=self._gate,
            observer=self._observer,
            max_message_bytes=self._config.max_message_bytes,
            new_request_id=_new_request_id,
        )
        entrance.add_routes(app)
        AdminPages(self._registry, self._checks, router_id=self._config.router_id).add_routes(app)
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=CANCEL_GRACE_S, handle_signals=False
        )
        await runner.setup()
        self._opened.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listening).start()
        self.http_address = address.join(self._config.host, listening.getsockname()[1])

    def _checks(self) -> dict[str, bool]:
        return {"table": self._router.version is not None, "taking requests": not self._gate.closed}

    async def _follow_table(self) -> None:
        while True:
            if self._router.version is not None:
                self._directory.update(self._router.routes())
                self._standard.health.set_ready(ready=True)
                self._gate.open()
            await self._router.changed(None)


async def _say_what_is_missing(watcher: Watcher) -> None:
    try:
        await watcher.synced(FIRST_TABLE_WARNING_S)
    except ControllerUnreachableError as error:
        _log.warning("not ready yet: still trying", cause=error.message)


def _http_socket(config: RouterConfig) -> socket.socket:
    try:
        return address.listening_socket(config.host, config.http_port)
    except PortTakenError as error:
        raise _named(error, "HTTP", "--http-port") from None


def _named(error: PortTakenError, which: str, option: str) -> PortTakenError:
    return PortTakenError(
        f"for {which} ({option}), {error.message}", details={**error.details, "port": which, "option": option}
    )


def _log_access(method: str, code: str, reason: str, duration_s: float, request_id: str) -> None:
    _log.info("call", method=method, code=code, reason=reason, duration_s=round(duration_s, 6), request_id=request_id)


def _new_request_id() -> str:
    return secrets.token_hex(8)
