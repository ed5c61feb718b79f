"""The stream to the controller: who this replica is and how it fares one way, commands the other.

It is opened again for ever when it breaks. What is sent is always the whole of what is so now, so nothing queues up
while the controller is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc.aio

from replica.core.orphan import OrphanWatch
from replica.desk import SlotDesk
from replica.state import ReplicaState
from serve_core.errors import ServeError
from serve_core.model.actor import ActorAssignment, ActorEndpoint
from serve_core.model.backoff import Backoff
from serve_core.model.gang import GangRoster
from serve_core.model.replica import Replica, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime import clock, log
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.actors import decode_actor_assignment, decode_actor_directory
from serve_core.wire.errors import decode_error
from serve_core.wire.fields import decode_duration, encode_duration
from serve_core.wire.gang import decode_gang_roster
from serve_core.wire.replica import decode_replica, encode_load, encode_replica_report
from serve_core.wire.spec import decode_deployment_spec

BACKOFF = Backoff(initial_s=0.05, factor=2.0, max_s=2.0, jitter=0.5)
CONNECT_TIMEOUT_S = 5.0
DEFAULT_HEARTBEAT_S = 1.0
CLOSE_TIMEOUT_S = 1.0

_log = log.get_logger(__name__)

Call = Any
"""An open stream: grpcio gives the kind of its calls no public type that knows the messages."""


class Commands(Protocol):
    """What the controller may tell a replica. None of them waits; each may come more than once."""

    def on_welcome(self, replica: Replica, spec: DeploymentSpec, actor: ActorAssignment | None) -> None:
        """Be this replica, or this life of an actor, and run this; once it runs, take what changes in place.

        Raises ConfigInvalidError if it is an actor and this process was started as a replica, or the other way round.
        """

    def on_reconfigure(self, spec: DeploymentSpec) -> None:
        """Take what changes in place."""

    def on_drain(self, budget_s: float | None, *, hold: bool = False) -> None:
        """Finish what is there within ``budget_s`` seconds, by default the deployment's own, and end.

        With ``hold`` it ends only after another drain without it, or with the budget.
        """

    def on_roster(self, roster: GangRoster) -> None:
        """This is who is in the gang. Raises ConfigInvalidError if it is another gang's."""

    def on_actors(self, actors: Sequence[ActorEndpoint]) -> None:
        """This is where the deployment's actors are."""

    def on_snapshot(self, request: int) -> None:
        """Save the state, for the request of this number."""

    def on_stop(self) -> None:
        """End at once."""

    def on_refused(self, error: ServeError) -> None:
        """What the controller said cannot be read."""


class Attachment:
    """Keeps a replica attached to its controller.

    Args:
        controller: ``HOST:PORT`` of the controller.
        state: What to report; each change of it is sent.
        desk: Whose load to report.
        commands: Is told what the controller says.
        orphan: Is told that a controller was heard, and asked whether one is to say something.
        take_lag_s: Gives the longest lag of the event loop since it was asked last, in seconds.
        max_message_bytes: The largest message that is taken.
        unit_random: Gives random numbers from 0 to 1, for jitter.
    """

    def __init__(
        self,
        controller: str,
        *,
        state: ReplicaState,
        desk: SlotDesk,
        commands: Commands,
        orphan: OrphanWatch,
        take_lag_s: Callable[[], float],
        max_message_bytes: int,
        unit_random: Callable[[], float],
    ) -> None:
        self._controller = controller
        self._state = state
        self._desk = desk
        self._commands = commands
        self._orphan = orphan
        self._take_lag_s = take_lag_s
        self._max_message_bytes = max_message_bytes
        self._unit_random = unit_random
        self._wake = asyncio.Event()
        self._changed = False
        self._hurried = False
        self._closing = False
        self._closed = asyncio.Event()
        self._heartbeat_s = DEFAULT_HEARTBEAT_S
        self._sequence = 0
        self._welcomed = False
        state.on_change(self._on_change)
        desk.on_fence(self._on_fence)

    async def run(self) -> None:
        """Attaches, again and again, until ``close``."""
        attempt = 0
        while not self._closing:
            self._welcomed = False
            try:
                await self._attach()
            except grpc.aio.AioRpcError as error:
                known = decode_error(error)
                reason = known.message if known is not None else f"{error.code().name}: {error.details()}"
                _log.info("detached", controller=self._controller, reason=reason)
            attempt = 0 if self._welcomed else attempt + 1
            if not self._closing:
                await self._pause(BACKOFF.delay_s(attempt, self._unit_random()))
        self._closed.set()

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Sends the last report and ends the stream. Whether that was done within ``timeout_s`` seconds."""
        self._closing = True
        self._on_change()
        try:
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not self._closing:
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            pass

    async def _attach(self) -> None:
        async with open_channel(
            self._controller, max_message_bytes=self._max_message_bytes, probes_bandwidth=False
        ) as channel:
            if not await wait_ready(channel, CONNECT_TIMEOUT_S, fail_fast=True):
                _log.debug("no controller answers", controller=self._controller)
                return
            stub = controller_pb2_grpc.ControllerServiceStub(channel)
            call: Call = stub.Attach()
            self._changed = False
            await call.write(controller_pb2.AttachRequest(hello=self._hello()))
            async with Supervisor("attachment") as tasks:
                sender = tasks.spawn(self._send(call), name="sender")
                await self._listen(call)
                if self._closing:
                    await asyncio.wait({sender}, timeout=CLOSE_TIMEOUT_S)

    async def _send(self, call: Call) -> None:
        """A report at each change, a heartbeat each period.

        By the event loop on purpose: a replica whose loop hangs is silent, and found out by that.
        """
        beaten_at = clock.monotonic()
        self._hurried = self._desk.suspended
        try:
            while not self._closing or self._changed:
                if self._hurried or beaten_at + self._heartbeat_s <= clock.monotonic():
                    self._hurried = False
                    beaten_at = clock.monotonic()
                    await call.write(controller_pb2.AttachRequest(heartbeat=self._heartbeat()))
                elif self._changed:
                    self._changed = False
                    await call.write(controller_pb2.AttachRequest(report=encode_replica_report(self._report())))
                else:
                    await self._woken(beaten_at + self._heartbeat_s - clock.monotonic())
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            # The stream is broken, which the reader is told with the reason.
            _log.debug("cannot send", error=str(error))

    async def _woken(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _on_change(self) -> None:
        self._changed = True
        self._wake.set()

    def _on_fence(self) -> None:
        # The sooner the controller hears a heartbeat, the sooner requests are taken again.
        self._hurried = self._desk.suspended
        self._wake.set()

    def _beat_every(self, seconds: float) -> None:
        self._heartbeat_s = seconds or DEFAULT_HEARTBEAT_S
        self._wake.set()

    async def _listen(self, call: Call) -> None:
        async for response in call:
            try:
                self._obey(response)
            except ServeError as error:
                self._commands.on_refused(error)

    def _obey(self, response: controller_pb2.AttachResponse) -> None:
        self._orphan.heard(clock.monotonic())
        match response.WhichOneof("command"):
            case "welcome":
                self._welcomed = True
                welcome = response.welcome
                self._beat_every(decode_duration(welcome.heartbeat_period))
                actor = decode_actor_assignment(welcome.actor) if welcome.HasField("actor") else None
                self._commands.on_welcome(decode_replica(welcome.replica), decode_deployment_spec(welcome.spec), actor)
            case "reconfigure":
                spec = decode_deployment_spec(response.reconfigure.spec)
                self._beat_every(spec.health.heartbeat_period_s)
                self._commands.on_reconfigure(spec)
            case "roster":
                self._commands.on_roster(decode_gang_roster(response.roster))
            case "actors":
                self._commands.on_actors(decode_actor_directory(response.actors))
            case "snapshot":
                self._commands.on_snapshot(response.snapshot.request)
            case "drain":
                drain = response.drain
                budget_s = decode_duration(drain.budget) if drain.HasField("budget") else None
                self._commands.on_drain(budget_s, hold=drain.hold)
            case "disown":
                _log.warning("disowned by the controller", reason=response.disown.message)
                self._commands.on_drain(None)
            case "stop":
                self._commands.on_stop()
            case "heartbeat_ack":
                self._desk.acknowledged(response.heartbeat_ack.sequence)
            case unknown:
                _log.warning("a command that this version does not know", command=unknown)

    def _hello(self) -> controller_pb2.AttachHello:
        replica = self._state.replica
        return controller_pb2.AttachHello(
            replica_id=replica.replica_id,
            epoch=replica.epoch,
            pid=os.getpid(),
            report=encode_replica_report(self._report()),
        )

    def _report(self) -> ReplicaReport:
        return self._state.report(self._desk.load, now=clock.monotonic())

    def _heartbeat(self) -> controller_pb2.Heartbeat:
        self._sequence += 1
        self._desk.beat(self._sequence)
        now = clock.monotonic()
        remaining_s = self._state.drain_remaining_s(now)
        return controller_pb2.Heartbeat(
            load=encode_load(self._desk.load),
            sequence=self._sequence,
            drain_remaining=None if remaining_s is None else encode_duration(remaining_s),
            loop_lag=encode_duration(self._take_lag_s()),
            # An answer costs either side more than the heartbeat itself.
            unanswered=not self._desk.suspended and not self._orphan.wants_word(now),
        )
