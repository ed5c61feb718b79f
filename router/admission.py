"""Waiting for one's turn: the asyncio side of a lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from router.core.lane import Lane
from router.core.load import ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.errors import ServeError
from serve_core.model.load import Load
from serve_core.runtime.clock import monotonic


class Admission:
    """Lets requests of one deployment wait, and wakes them when the lane hands out a replica.

    Args:
        lane: Decides.
        on_wait: Called when a request begins to wait.
    """

    def __init__(self, lane: Lane, *, on_wait: Callable[[], None] = lambda: None) -> None:
        self.lane = lane
        self._on_wait = on_wait
        self._refusal: Callable[[], ServeError] | None = None
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._probe_timer: asyncio.TimerHandle | None = None

    def enter(self, *, slots: int, deadline: float | None, whole_gang: bool = False) -> Waiter:
        """A request arrives; ``turn`` then waits until it has a replica, or every member of a gang.

        Raises:
            QueueFullError: Too many wait.
            NoSlotInTimeError: Its deadline is over.
            ConfigInvalidError: It weighs more than any replica holds.
            ServeError: The deployment is closed.
        """
        if self._refusal is not None:
            raise self._refusal()
        return self.lane.enter(slots=slots, deadline=deadline, now=monotonic(), whole_gang=whole_gang)

    async def turn(self, waiter: Waiter) -> ReplicaLoad:
        """Waits until the request has a replica, the leader if it is for a gang. Cancelled meanwhile, it leaves at once.

        Raises:
            NoSlotInTimeError: Its deadline came first.
            ServeError: The deployment was closed.
        """
        if waiter.replica is None and waiter.error is None:
            await self._wait(waiter)
        if waiter.error is not None:
            raise waiter.error
        replica = waiter.replica
        assert replica is not None
        if waiter.deadline is not None and (now := monotonic()) >= waiter.deadline:
            # Woken too late: the replica is not bothered.
            self.finish(waiter)
            raise self.lane.too_late(waiter, now)
        return replica

    def again(self, waiter: Waiter, outcome: Outcome) -> None:
        """A request was refused: it takes its old place and waits its turn anew.

        Raises:
            ServeError: The deployment was closed meanwhile.
        """
        self.lane.finish(waiter, monotonic(), outcome=outcome)
        self._wait_again(waiter)

    def gang_again(self, waiter: Waiter, outcomes: Mapping[ReplicaLoad, Outcome]) -> None:
        """A request was refused by members of its gang: as ``again``."""
        self.lane.refuse_gang(waiter, outcomes)
        self._wait_again(waiter)

    def finish(self, waiter: Waiter, load: Load | None = None) -> None:
        """A request is over: its slots go to whoever is next. ``load`` is its replica's, which holds it no more."""
        self.lane.finish(waiter, monotonic(), load=load)
        self.settle()

    def open(self) -> None:
        """Takes requests (again)."""
        self._refusal = None

    def close(self, refusal: Callable[[], ServeError]) -> None:
        """Refuses requests, and those that wait, until it is opened again."""
        self._refusal = refusal
        self._wake(self.lane.close(refusal))

    def settle(self) -> None:
        """Hands out what can be handed out. To be called after whatever may have opened a replica."""
        if self.lane.queue.waits:
            self._wake(self.lane.settle(monotonic()))
            self._arm()

    def _wait_again(self, waiter: Waiter) -> None:
        if self._refusal is None:
            self.lane.put_back(waiter)
        self.settle()
        if self._refusal is not None:
            raise self._refusal()

    async def _wait(self, waiter: Waiter) -> None:
        loop = asyncio.get_running_loop()
        future = self._futures[waiter.number] = loop.create_future()
        timer = None
        if waiter.deadline is not None:
            timer = loop.call_later(max(0.0, waiter.deadline - monotonic()), self._expire, waiter)
        self._arm()
        self._on_wait()
        try:
            await future
        except asyncio.CancelledError:
            self.lane.leave(waiter)
            if waiter.replica is None:
                self.settle()
            else:
                self.finish(waiter)
            raise
        finally:
            del self._futures[waiter.number]
            if timer is not None:
                timer.cancel()

    def _wake(self, waiters: list[Waiter]) -> None:
        for waiter in waiters:
            future = self._futures.get(waiter.number)
            if future is not None and not future.done():
                future.set_result(None)

    def _expire(self, waiter: Waiter) -> None:
        if self.lane.expire(waiter, monotonic()):
            self._wake([waiter])
            self.settle()

    def _arm(self) -> None:
        """Sees to it that probes end also where nothing else happens."""
        if self._probe_timer is not None:
            return
        ends_at = self.lane.probe_ends_at()
        if ends_at is not None:
            loop = asyncio.get_running_loop()
            self._probe_timer = loop.call_later(max(0.001, ends_at - monotonic()), self._end_probes)

    def _end_probes(self) -> None:
        self._probe_timer = None
        self.lane.settle_probes(monotonic())
        self.settle()
        self._arm()


class Member:
    """Tells a lane what becomes known of one of its replicas."""

    def __init__(self, admission: Admission, load: ReplicaLoad) -> None:
        self.load = load
        self._admission = admission

    def told(self, load: Load, *, freed: int) -> None:
        """A reply told its load."""
        self._admission.lane.told(self.load, load, freed=freed)
        self._admission.settle()

    def pushed(self, load: Load, *, draining: bool) -> None:
        """It told its load by itself."""
        self._admission.lane.pushed(self.load, load, draining=draining)
        self._admission.settle()

    def lost(self, *, reachable: bool) -> None:
        """The watch of its load ended."""
        self._admission.lane.lost(self.load, reachable=reachable)
        self._admission.settle()
