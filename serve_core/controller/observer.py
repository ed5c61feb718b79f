"""Tells the world what the backend says, and when the controller itself could not listen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from serve_core.backend.port import Backend
from serve_core.backend.port import ProcessExited as BackendExited
from serve_core.controller.executor import parse_process_id
from serve_core.controller.world import World
from serve_core.model.ids import GangId, ReplicaId
from serve_core.plan.events import (
    BackendListed,
    ListeningResumed,
    NodesSeen,
    PlacementReserved,
    ProcessExited,
    ProcessStarted,
)
from serve_core.plan.observed import NodeObserved
from serve_core.runtime import clock, log
from serve_core.runtime.supervisor import Supervisor

_log = log.get_logger(__name__)


class Observer:
    """The backend's side of what is observed.

    Args:
        backend: An open backend.
        world: Is told.
        last_words: Waits until what a process said before its end was heard.
        last_words_s: For how long at most.
        tasks: Owns that waiting.
    """

    def __init__(
        self,
        backend: Backend,
        world: World,
        *,
        last_words: Callable[[ReplicaId, int], Awaitable[None]],
        last_words_s: float,
        tasks: Supervisor,
    ) -> None:
        self._backend = backend
        self._world = world
        self._last_words = last_words
        self._last_words_s = last_words_s
        self._tasks = tasks

    async def take_stock(self) -> None:
        """Tells of everything that runs and is reserved now. Once, before anything is planned."""
        listing = await self._backend.list()
        for placement in listing.placements:
            self._world.tell(PlacementReserved(gang_id=GangId(placement.placement_id), now=self._world.now()))
        for process in listing.processes:
            named = parse_process_id(process.process_id)
            if named is not None:
                self._world.tell(
                    ProcessStarted(replica_id=named[0], epoch=named[1], pid=process.pid, now=self._world.now())
                )
        nodes = tuple(
            NodeObserved(node_id=node.node_id, zone=node.zone, labels=node.labels, total=node.total)
            for node in self._backend.nodes()
        )
        self._world.tell(NodesSeen(nodes=nodes, now=self._world.now()))
        self._world.tell(BackendListed(now=self._world.now()))
        if listing.processes:
            _log.info("found what an earlier controller left", processes=len(listing.processes))

    async def run(self) -> None:
        """Tells of what ends, until the backend is closed."""
        async for event in self._backend.events():
            named = parse_process_id(event.process_id)
            if named is None:
                continue
            replica_id, epoch = named
            _log.info("process ended", replica=replica_id, exit_code=event.exit_code)
            if event.exit_code is None or event.exit_code >= 0:
                # It ended by itself, and may have said why: the exit notice overtakes what is still in the socket.
                self._tasks.spawn(
                    self._tell_after_last_words(replica_id, epoch, event), name=f"last words of {event.process_id}"
                )
            else:
                self._tell_exit(replica_id, epoch, event)

    async def _tell_after_last_words(self, replica_id: ReplicaId, epoch: int, event: BackendExited) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._last_words_s):
                await self._last_words(replica_id, epoch)
        self._tell_exit(replica_id, epoch, event)

    def _tell_exit(self, replica_id: ReplicaId, epoch: int, event: BackendExited) -> None:
        if event.exit_code not in (0, None) and event.log_tail:
            _log.warning("last lines of its log", replica=replica_id, log=event.log_tail)
        self._world.tell(
            ProcessExited(replica_id=replica_id, epoch=epoch, exit_code=event.exit_code, now=self._world.now())
        )


class Listening:
    """Notices when this process was stopped or starved: then the silence of others proves nothing.

    Args:
        world: Is told.
        check_s: Between two checks.
        limit_s: A longer gap between checks counts as not having listened.
    """

    def __init__(self, world: World, *, check_s: float, limit_s: float) -> None:
        self._world = world
        self._check_s = check_s
        self._limit_s = limit_s
        self._checked_at = clock.monotonic()

    def check(self) -> None:
        """To be called before silence is judged, beside the regular checks."""
        now = clock.monotonic()
        gap_s, self._checked_at = now - self._checked_at, now
        if gap_s > self._limit_s:
            _log.warning("could not listen", gap_s=round(gap_s, 3))
            self._world.tell(ListeningResumed(now=self._world.now()))

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            await asyncio.sleep(self._check_s)
            self.check()
