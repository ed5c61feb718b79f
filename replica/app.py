"""Puts a replica's process together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, MutableMapping
from contextlib import AsyncExitStack

from replica.actor import Actor
from replica.actor_calls import ActorCalls
from replica.admission import UserServices
from replica.attach import CLOSE_TIMEOUT_S, Attachment
from replica.barrier import BarrierDesk
from replica.calls import Calls
from replica.config import ACTOR, ReplicaConfig
from replica.core.orphan import OrphanWatch
from replica.desk import SlotDesk
from replica.lane import GangLane
from replica.life import Life
from replica.line import Line
from replica.membership import Membership
from replica.peers import Peers
from replica.service import Aborter, ReplicaServicer
from replica.state import ReplicaState
from replica.states import StoredStates
from replica.threads import ThreadRunner
from replica.watch import Watchers
from replica.watchdog import LoopWatchdog
from replica.worker import Worker
from serve_core.errors import StartError
from serve_core.link.links import links_of
from serve_core.model.health import HealthPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime import clock, log
from serve_core.runtime.server import Server
from serve_core.runtime.standard import add_standard_services
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2_grpc

STOP_GRACE_S = 1.0
"""How long answers may take to leave once every slot is free."""

LEAVE_TIMEOUT_S = 3.0
"""How long routers may take to leave a replica that has drained, before its server ends."""

FAILURE_TIMEOUT_S = 5.0
"""How long the controller may take to hear of a failed start."""

_log = log.get_logger(__name__)
_unit_random = random.SystemRandom().random


class ReplicaApp:
    """One replica: server, slots, user code, and the stream to the controller.

    Args:
        config: How it runs.
        on_listening: Is told the address once the server listens.
        environ: The variables of this process: those that launchers of distributed programs set are set here.
    """

    def __init__(
        self, config: ReplicaConfig, *, on_listening: Callable[[str], None], environ: MutableMapping[str, str]
    ) -> None:
        self._config = config
        self._on_listening = on_listening
        self.state = ReplicaState(replica_id=config.replica_id, epoch=config.epoch, node_id=config.node_id)
        self.desk = SlotDesk(replica_id=config.replica_id, epoch=config.epoch)
        self._watchers = Watchers(self.desk, self.state)
        self._calls = Calls(self.desk)
        barriers = BarrierDesk()
        self._membership = Membership(self.state, barriers, environ)
        self._lane = GangLane(self._membership, self.desk, self._calls)
        self._peers = Peers(
            self._membership, barriers, max_message_bytes=config.max_message_bytes, unit_random=_unit_random
        )
        self._threads = ThreadRunner(1)
        self._watchdog = LoopWatchdog(HealthPolicy(), on_alive=self.desk.alive)
        self._orphan = OrphanWatch(timeout_s=config.orphan_timeout_s, now=clock.monotonic())
        abort = Aborter(self.desk)
        services = UserServices(desk=self.desk, calls=self._calls, threads=self._threads, abort=abort)
        self._server = Server(
            config.host,
            config.port,
            max_message_bytes=config.max_message_bytes,
            abort=abort,
        )
        self._links = links_of(self._server, config.max_message_bytes)
        servicer = ReplicaServicer(
            state=self.state,
            desk=self.desk,
            calls=self._calls,
            worker=Worker(self._calls, self._threads),
            watchers=self._watchers,
            barriers=barriers,
            lane=self._lane,
            links=self._links,
        )
        self._server.add(replica_pb2_grpc.add_ReplicaServiceServicer_to_server, servicer)
        standard = add_standard_services(self._server)
        self._server.add_generic_handlers([services])
        self._server.add_stop_hook(self._watchers.close)
        self._actor_calls = ActorCalls(max_message_bytes=config.max_message_bytes, unit_random=_unit_random)
        self._life = Life(
            controller=config.controller,
            bundles=config.bundles,
            state=self.state,
            desk=self.desk,
            calls=self._calls,
            threads=self._threads,
            services=services,
            standard=standard,
            watchdog=self._watchdog,
            membership=self._membership,
            peers=self._peers,
            lane=self._lane,
            actor_calls=self._actor_calls,
            actor=self._an_actor(config),
        )
        self._attachment = Attachment(
            config.controller,
            state=self.state,
            desk=self.desk,
            commands=self._life,
            orphan=self._orphan,
            take_lag_s=self._watchdog.take_lag_s,
            max_message_bytes=config.max_message_bytes,
            unit_random=_unit_random,
        )

    def _an_actor(self, config: ReplicaConfig) -> Actor | None:
        """What it is beyond a replica, if it is an actor."""
        if config.role != ACTOR:
            return None
        states = StoredStates(
            config.controller,
            replica_id=config.replica_id,
            epoch=config.epoch,
            max_message_bytes=config.max_message_bytes,
        )
        return Actor(states, self.state, self._calls, Line(self.desk), unit_random=_unit_random)

    async def run(self, stop: asyncio.Event) -> int:
        """Lives until the drain is over, and tells the controller of its end.

        Args:
            stop: Once set, the replica drains as on a DrainCommand without a budget.

        Returns:
            The exit status, 0.

        Raises:
            PortTakenError: Another process listens on the port.
            StartError: User code did not come up.
        """
        self._calls.loop = asyncio.get_running_loop()
        address = await self._server.start()
        self.state.listen_at(address)
        async with AsyncExitStack() as stack:
            if self._links is not None:
                stack.push_async_callback(self._links.close)
                await self._links.start()
            self._on_listening(address)
            stack.callback(self._threads.close)
            stack.callback(self._lane.close)
            stack.callback(self._membership.close)
            stack.push_async_callback(self._peers.close)
            stack.push_async_callback(self._actor_calls.close)
            self._watchdog.start()
            stack.callback(self._watchdog.close)
            tasks = await stack.enter_async_context(Supervisor("replica process"))
            stack.push_async_callback(self._server.stop, STOP_GRACE_S)
            tasks.spawn(self._attachment.run(), name="attachment")
            tasks.spawn(self._obey(stop), name="signals")
            tasks.spawn(self._end_as_orphan(), name="orphan")
            try:
                await self._life.run()
            except StartError:
                await self._attachment.close(FAILURE_TIMEOUT_S)
                raise
            # What is on its way here is refused and tried elsewhere; a server that ends would cut it off without a word.
            await self._watchers.left(LEAVE_TIMEOUT_S)
            await self._server.stop(STOP_GRACE_S)
            self.state.enter(ReplicaPhase.GONE)
            await self._attachment.close(CLOSE_TIMEOUT_S)
        return 0

    async def _obey(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._life.on_drain(None)

    async def _end_as_orphan(self) -> None:
        while (deadline := self._orphan.deadline()) is not None:
            now = clock.monotonic()
            if self._orphan.orphaned(now):
                _log.warning("no controller for too long", timeout_s=self._config.orphan_timeout_s)
                self._life.on_drain(None)
                return
            await asyncio.sleep(deadline - now)
