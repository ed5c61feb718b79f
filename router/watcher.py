"""The subscription to the controller's endpoint table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from router.core.endpoints import TableGapError
from router.forward import Router
from router.linking import link_to_controller
from serve_core.errors import ControllerUnreachableError
from serve_core.model.backoff import Backoff
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.channel import open_channel
from serve_core.runtime.limits import DEFAULT_MAX_MESSAGE_BYTES
from serve_core.runtime.log import get_logger
from serve_core.runtime.spare import SpareChannel
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.autoscaling import encode_queues
from serve_core.wire.endpoints import decode_table_change, encode_table_version

_Call: TypeAlias = (
    "grpc.aio.StreamStreamCall[controller_pb2.WatchEndpointsRequest, controller_pb2.WatchEndpointsResponse]"
)

RESUBSCRIBE = Backoff(initial_s=0.05, factor=2.0, max_s=2.0, jitter=0.5)

_log = get_logger(__name__)


class Watcher:
    """Keeps a router's table up to date, acknowledges what it routes by, and tells how many requests wait.

    While the controller is away the router goes on with its last table, and this resubscribes for ever.

    Args:
        router: Whose table it is.
        controller: ``host:port`` of the controller.
        address: ``host:port`` of the router's gRPC server; empty for one inside a caller.
        http_address: ``host:port`` of the router's HTTP server; empty if it has none.
        unit_random: Random numbers from 0 to 1, for the jitter of backoffs.
        max_message_bytes: The largest message that is taken.
    """

    def __init__(
        self,
        router: Router,
        controller: str,
        *,
        address: str = "",
        http_address: str = "",
        unit_random: Callable[[], float],
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self._router = router
        self._controller = controller
        self._address = address
        self._http_address = http_address
        self._unit_random = unit_random
        self._max_message_bytes = max_message_bytes
        self._synced = asyncio.Event()
        self._connected = False
        self._call: _Call | None = None
        # A stream takes one message at a time.
        self._writing = asyncio.Lock()
        self._leaving = False
        self._left = asyncio.Event()
        # Set when a change did not follow from the table: the next subscription asks for all of it.
        self._needs_snapshot = False

    @property
    def connected(self) -> bool:
        """Whether the controller is subscribed to now."""
        return self._connected

    async def synced(self, timeout_s: float) -> None:
        """Waits for the first table.

        Raises:
            ControllerUnreachableError: None came within ``timeout_s``.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._synced.wait()
        except TimeoutError:
            raise ControllerUnreachableError(
                f"no controller answers at {self._controller} within {timeout_s:g} s; "
                "start one with 'serve-core run' or 'serve-core controller', or give its address",
                details={"controller": self._controller},
            ) from None

    async def leave(self, timeout_s: float) -> None:
        """Tells the controller that this router routes nothing any more, so that nobody waits for it. ``run`` ends."""
        self._leaving = True
        if self._call is None or not self._connected:
            return
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(timeout_s):
                await self._call.done_writing()
                await self._left.wait()

    async def run(self) -> None:
        """Subscribes until it leaves."""
        opening = partial(
            open_channel, self._controller, max_message_bytes=self._max_message_bytes, probes_bandwidth=False
        )
        channel = SpareChannel(opening)
        attempt = 0
        try:
            while True:
                async with link_to_controller(
                    channel, max_message_bytes=self._max_message_bytes, keeps_channel=bool(self._address)
                ) as link:
                    way: Any = link or channel
                    brought = await self._subscribe(controller_pb2_grpc.ControllerServiceStub(way))
                if brought:
                    attempt = 0
                if self._leaving:
                    return
                await asyncio.sleep(RESUBSCRIBE.delay_s(attempt, self._unit_random()))
                attempt += 1
        finally:
            self._left.set()
            await channel.close()

    async def _subscribe(self, stub: controller_pb2_grpc.ControllerServiceAsyncStub) -> bool:
        """Follows one subscription to its end; says whether it brought a table."""
        # The channel itself tries to connect again and again, so the call may wait for it.
        call = self._call = stub.WatchEndpoints(wait_for_ready=True)
        brought = False
        try:
            await self._write(call, self._request())
            async with Supervisor("subscription") as tasks:
                tasks.spawn(self._tell_queues(call), name="tell queues")
                while (message := await call.read()) is not grpc.aio.EOF:
                    self._router.apply(decode_table_change(cast("controller_pb2.WatchEndpointsResponse", message)))
                    brought, self._needs_snapshot = True, False
                    self._connected = True
                    self._synced.set()
                    if not self._leaving:
                        await self._write(call, self._request())
        except grpc.aio.AioRpcError as error:
            _log.debug("the subscription to the controller ended", controller=self._controller, cause=error.details())
        except TableGapError as error:
            self._needs_snapshot = True
            _log.warning("the controller's change does not fit the table: asking for all of it", cause=str(error))
        finally:
            self._connected = False
            self._call = None
            call.cancel()
        return brought

    async def _write(self, call: _Call, request: controller_pb2.WatchEndpointsRequest) -> None:
        async with self._writing:
            with contextlib.suppress(asyncio.InvalidStateError):  # It is over: who reads is told why.
                await call.write(request)

    async def _tell_queues(self, call: _Call) -> None:
        """Tells how many requests wait, until the subscription ends."""
        with contextlib.suppress(grpc.aio.AioRpcError):  # Who reads it is told, too.
            async with contextlib.aclosing(self._router.queues.reports()) as reports:
                async for queued in reports:
                    if self._leaving:
                        return
                    await self._write(call, self._request(queued))

    def _request(self, queued: Mapping[DeploymentKey, int] | None = None) -> controller_pb2.WatchEndpointsRequest:
        version: TableVersion | None = None if self._needs_snapshot else self._router.version
        return controller_pb2.WatchEndpointsRequest(
            router_id=self._router.router_id,
            address=self._address,
            http_address=self._http_address,
            acknowledged=encode_table_version(version) if version is not None else None,
            queues=encode_queues(queued) if queued is not None else None,
        )
