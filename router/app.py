"""The router process, put together: what is there, in which order it starts, and how it ends."""

from __future__ import annotations

import asyncio
import importlib
import random
import socket
from contextlib import AsyncExitStack

from router import ports, sockets
from router.calls import Calls
from router.config import RouterConfig
from router.core.departure import DepartureLimits, Seen
from router.directory import Directory
from router.forward import Router
from router.gate import Gate
from router.http_calls import HttpCalls
from router.http_door import HttpDoor, Serving
from router.ingress import Ingress
from router.leave import leave
from router.observe import AMOUNTS, Observer
from router.observed import ObservedServicer
from router.passage import Door
from router.passthrough import Passthrough
from router.service import RouterService
from router.slot_requests import SlotRequests
from router.watcher import Watcher
from serve_core.errors import ControllerUnreachableError
from serve_core.model.ids import RouterId
from serve_core.runtime import address, garbage, process
from serve_core.runtime.clock import monotonic
from serve_core.runtime.log import get_logger
from serve_core.runtime.metrics import LoopLag, exposition, new_registry
from serve_core.runtime.server import Server
from serve_core.runtime.shared_metrics import SharedMetrics
from serve_core.runtime.standard import StandardServices, add_standard_services
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import router_pb2_grpc
from serve_core.wire.errors import abort

ROUTER_SERVICE = "serve_core.v1.RouterService"
CANCEL_GRACE_S = 0.1
"""Seconds between the last answer of a drain, or the end of its budget, and the end of every connection."""

ALONE_TIMEOUT_S = 5.0
"""How long a router that shares its ports waits for a table before it listens, if no other one listens there."""

GOODBYE_TIMEOUT_S = 1.0
"""How long the controller has to hear that this router leaves."""

FIRST_TABLE_WARNING_S = 10.0

_log = get_logger(__name__)
_request_ids = random.Random()  # seeded by the system; names, not secrets


async def serve(config: RouterConfig, signals: process.Signals) -> int:
    """Runs a router until it is told to stop; gives its exit status.

    Raises:
        PortTakenError: Another process listens on one of its ports.
        ConfigInvalidError: Nobody can listen there.
    """
    async with Supervisor("router") as tasks:
        app = RouterApp(config, tasks)
        try:
            if not await app.may_listen(signals.stop):
                return 0
            await app.start()
            garbage.look_rarely()
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
            max_connection_age_s=config.connection_age_s or None,
        )
        self._standard = self._add_services()
        self._directory = Directory(self._standard.health, self._standard.reflection)
        self._http: HttpDoor | None = None
        self._watcher: Watcher | None = None
        self._leaving = False
        self._opened = AsyncExitStack()
        self._shared = self._share(config)
        self._siblings: frozenset[int] = frozenset()

    async def may_listen(self, stop: asyncio.Event) -> bool:
        """Waits for a table, where the ports are shared: before it is there, others serve better.

        While no other router listens, there is a limit to that: probes want an answer.

        Returns:
            False if it was told to stop meanwhile.
        """
        config = self._config
        wanted = (config.port, config.http_port)
        if not config.reuse_port or not all(wanted):
            return True
        limit_s = None if any(map(sockets.others_listen, wanted)) else ALONE_TIMEOUT_S
        watcher = self._watch(*(address.join(config.host, port) for port in wanted))
        async with Supervisor("before listening") as waiting:
            first = waiting.spawn(_first_table(watcher), name="first table")
            stopped = waiting.spawn(stop.wait(), name="stop")
            await asyncio.wait((first, stopped), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        return not stop.is_set()

    async def start(self) -> None:
        """Listens, then subscribes to the controller's table.

        Raises:
            PortTakenError, ConfigInvalidError: It cannot listen. Call ``close`` all the same.
        """
        listening = ports.http_socket(self._config)
        self._opened.callback(listening.close)
        if self._shared is not None:
            self._shared.open()
            self._opened.callback(self._shared.close)
            self._tasks.spawn(self._shared.run(), name="share metrics")
        self._take_table()
        await self._start_grpc()
        self._open_http(listening)
        if self._watcher is None:
            self._tasks.spawn(_first_table(self._watch(self.address, self.http_address)), name="first table")
        self._tasks.spawn(LoopLag(self._registry).run(), name="loop lag")
        self._tasks.spawn(self._follow_table(), name="follow the table")

    async def drain(self) -> None:
        """Says that it is not ready, serves on until its callers have left, refuses, and waits for what runs.

        All within the configured times.
        """
        config = self._config
        self._leaving = True
        self._tell_readiness()
        self._siblings = sockets.siblings() if config.worker else frozenset()
        self._standard.health.shut_down()
        _log.info("draining", running=self._gate.inside, timeout_s=config.drain_timeout_s)
        limits = DepartureLimits(
            drain_timeout_s=config.drain_timeout_s, linger_timeout_s=config.linger_timeout_s, quiet_s=config.quiet_s
        )
        await leave(self._gate, limits, look=self._look, stop_listening=self._stop_listening)

    async def close(self) -> None:
        """Ends every connection, with what is still on it."""
        self._gate.close()
        if self._leaving and self._watcher is not None:
            await self._watcher.leave(GOODBYE_TIMEOUT_S)
        if self._leaving and self.address and sockets.connections(self._grpc_port):
            # grpcio does not tell when the last answer is on the wire.
            await asyncio.sleep(CANCEL_GRACE_S)
            # Left to itself it would answer calls that are on their way with CANCELLED, which nobody may retry.
            sockets.hang_up(self._grpc_port)
        await self._opened.aclose()
        await self._router.close()

    @property
    def _grpc_port(self) -> int:
        return address.split(self.address)[1]

    def _look(self) -> Seen:
        assert self._http is not None
        return Seen(
            running=self._gate.inside,
            connections=sockets.connections(self._grpc_port) + self._http.connections,
            last_call_at=self._gate.last_at,
            leased_until=self._router.leased_until(),
            # All workers are told to leave together: none of them takes the place of another.
            replaced=self._config.reuse_port and sockets.others_listen(self._grpc_port, besides=self._siblings),
        )

    async def _stop_listening(self) -> None:
        assert self._http is not None
        sockets.stop_listening(self._grpc_port)
        await self._http.stop_listening()

    def _watch(self, grpc_address: str, http_address: str) -> Watcher:
        watcher = self._watcher = Watcher(
            self._router,
            self._config.controller,
            address=grpc_address,
            http_address=http_address,
            unit_random=random.Random().random,
            max_message_bytes=self._config.max_message_bytes,
        )
        self._tasks.spawn(watcher.run(), name="watch endpoints")
        return watcher

    def _add_services(self) -> StandardServices:
        config = self._config
        slot_requests = SlotRequests(
            self._router, path=f"/{ROUTER_SERVICE}/ReserveSlot", gate=self._gate, observer=self._observer
        )
        service = ObservedServicer(
            RouterService(self._router, self._tasks),
            service=ROUTER_SERVICE,
            gate=self._gate,
            observer=self._observer,
            begins={"ReserveSlot": slot_requests.begin},
        )
        self._server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, service)
        standard = add_standard_services(self._server)
        door = Door(
            passthrough=Passthrough(self._router, self._observer),
            gate=self._gate,
            observer=self._observer,
            max_message_bytes=config.max_message_bytes,
            new_request_id=_new_request_id,
        )
        self._server.add_generic_handlers([Ingress(self._router, door)])
        return standard

    async def _start_grpc(self) -> None:
        with ports.grpc_named():
            self.address = await self._server.start()
        self._opened.push_async_callback(self._server.stop, CANCEL_GRACE_S)

    def _open_http(self, listening: socket.socket) -> None:
        self._http = HttpDoor(listening, load=self._serve_http, tasks=self._tasks)
        self._opened.push_async_callback(self._http.close)
        self._http.open()
        self.http_address = address.join(self._config.host, self._http.port)

    async def _serve_http(self, listening: socket.socket) -> Serving:
        # Not on the event loop, whose calls go on meanwhile.
        await asyncio.to_thread(importlib.import_module, "router.http_stack")
        from router.http_stack import http_server

        garbage.look_away()
        server = http_server(
            listening,
            calls=HttpCalls(self._router, Calls(self._router, self._tasks)),
            gate=self._gate,
            observer=self._observer,
            metrics=self._metrics,
            checks=self._checks,
            siblings=dict if self._shared is None else self._shared.others_ready,
            router_id=self._config.router_id,
            max_message_bytes=self._config.max_message_bytes,
            new_request_id=_new_request_id,
            is_leaving=lambda: self._leaving,
            cancel_grace_s=CANCEL_GRACE_S,
        )
        await server.start()
        return server

    def _checks(self) -> dict[str, bool]:
        return {
            "table": self._router.version is not None,
            "taking requests": not self._leaving and not self._gate.closed,
        }

    def _share(self, config: RouterConfig) -> SharedMetrics | None:
        if not config.worker or config.folder is None:
            return None
        return SharedMetrics(
            config.folder,
            config.worker,
            config.workers,
            registry=self._registry,
            ready=lambda: all(self._checks().values()),
            amounts=AMOUNTS,
        )

    def _tell_readiness(self) -> None:
        if self._shared is not None:
            self._shared.publish()

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        return exposition(self._registry, accept) if self._shared is None else await self._shared.exposition(accept)

    async def _follow_table(self) -> None:
        while True:
            self._take_table()
            await self._router.routes_changed(None)

    def _take_table(self) -> None:
        if self._router.version is not None:
            self._directory.update(self._router.routes())
            self._standard.health.set_ready(ready=True)
            if not self._gate.opened:
                self._gate.open()
                self._tell_readiness()


async def _first_table(watcher: Watcher) -> None:
    while True:
        try:
            await watcher.synced(FIRST_TABLE_WARNING_S)
        except ControllerUnreachableError as error:
            _log.warning("not ready yet: still trying", cause=error.message)
        else:
            return


def _log_access(method: str, code: str, reason: str, duration_s: float, request_id: str) -> None:
    _log.info("call", method=method, code=code, reason=reason, duration_s=round(duration_s, 6), request_id=request_id)


def _new_request_id() -> str:
    return _request_ids.randbytes(8).hex()
