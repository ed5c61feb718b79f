"""Promises of slots on every member of a gang, or on none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from router.admission import Admission
from router.core.attempt import GangAttempt
from router.core.load import ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome, outcome
from router.fleet import Fleet
from router.promises import Ask, Promise, Promises
from router.reserving import Reserving
from router.tokens import Part
from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Replica
from serve_core.model.slots import GangLease
from serve_core.runtime.clock import monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class GangReservation:
    """A promise on a whole gang, and its members by rank. The lease's ``expires_at`` is in seconds since the Unix epoch."""

    lease: GangLease
    members: tuple[Replica, ...]


class HeldGang:
    """A promise on a whole gang that this router holds for one request, inside ``GangReserving.hold``."""

    def __init__(self, promises: Sequence[Promise]) -> None:
        self.promises = tuple(promises)
        self.reservation = _reservation(promises)
        self.parts = tuple(Part(one.upstream, str(one.lease.token)) for one in promises)
        self.spent = False

    @property
    def lease(self) -> GangLease:
        """The promise."""
        return self.reservation.lease

    @property
    def ttl_s(self) -> float:
        """The time to live that was granted."""
        return self.reservation.lease.ttl_s

    @property
    def token(self) -> str:
        """The token's text."""
        return str(self.reservation.lease.token)

    def spend(self) -> None:
        """The token is dispatched, or someone else's from now on: leaving the block does not release it."""
        self.spent = True


class GangReserving:
    """Reserves gangs.

    A gang that refuses in part is given up at once, and waited for without holding anything; so two who want the same
    gang cannot block each other.

    Args:
        admission_of: The queue of a deployment; raises for one that is not known.
        fleet: The connections to replicas.
        reserving: The slot calls.
        connect_timeout_s: Seconds that a member's channel has to become READY before another gang is tried.
    """

    def __init__(
        self,
        admission_of: Callable[[DeploymentKey], Admission],
        fleet: Fleet,
        reserving: Reserving,
        *,
        connect_timeout_s: float,
    ) -> None:
        self._admission_of = admission_of
        self._fleet = fleet
        self._reserving = reserving
        self._promises = Promises(fleet, reserving)
        self._connect_timeout_s = connect_timeout_s

    async def reserve(
        self,
        key: DeploymentKey,
        *,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
        deadline: float | None,
    ) -> GangReservation:
        """Waits its turn until every member of a gang has promised slots. See ``Router.reserve``, also for errors."""
        self._admission_of(key)
        ask = self._reserving.sender(slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline)
        again = await self._promises.again(key, request_id, ask)
        if again is not None:
            return _reservation(again)
        async with self.hold(key, slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline) as held:
            held.spend()
        self._promises.remember(key, request_id, held.promises)
        return held.reservation

    @asynccontextmanager
    async def hold(
        self,
        key: DeploymentKey,
        *,
        slots: int = 1,
        ttl_s: float | None = None,
        request_id: str = "",
        deadline: float | None,
    ) -> AsyncIterator[HeldGang]:
        """Reserves as ``reserve`` does, for a block: leaving it releases the token unless ``held.spend()`` was called.

        The slots count as this router's own until the block ends.
        """
        ask = self._reserving.sender(slots=slots, ttl_s=ttl_s, request_id=request_id, deadline=deadline)
        admission = self._admission_of(key)
        waiter = admission.enter(slots=slots, deadline=deadline, whole_gang=True)
        try:
            granted = await self._obtain(admission, waiter, ask)
            held = HeldGang(granted)
            try:
                yield held
            finally:
                if not held.spent:
                    await self._give_back(granted, slots)
        finally:
            admission.finish(waiter)

    async def _obtain(self, admission: Admission, waiter: Waiter, ask: Ask) -> list[Promise]:
        attempts = 0
        while True:
            await admission.turn(waiter)
            attempt = _Attempt(partial(self._ask_one, ask=ask, deadline=waiter.deadline))
            try:
                await attempt.run(GangAttempt(waiter.members, at_once=attempts == 0))
            except BaseException:
                for one in attempt.granted.values():
                    self._reserving.abandon(one.upstream, str(one.lease.token))
                raise
            if not attempt.refused:
                return [attempt.granted[member] for member in waiter.members]
            attempts += 1
            await self._give_back(list(attempt.granted.values()), waiter.slots)
            admission.gang_again(waiter, self._outcomes(attempt.refused))

    def _outcomes(self, refused: dict[ReplicaLoad, ServeError]) -> dict[ReplicaLoad, Outcome]:
        outcomes = {}
        for member, error in refused.items():
            outcomes[member] = outcome(error)
            if outcomes[member] is Outcome.FINAL:
                raise error
            if outcomes[member] is Outcome.UNREACHABLE:
                self._doubt(member)
        return outcomes

    def _doubt(self, member: ReplicaLoad) -> None:
        """Where the channel claims otherwise, the replica has to prove that it is there by answering a new watch."""
        upstream = self._fleet.find(member.replica_id)
        if upstream is not None and upstream.connected:
            upstream.restart_watch()

    async def _give_back(self, granted: Sequence[Promise], slots: int) -> None:
        async with asyncio.TaskGroup() as group:
            for one in granted:
                group.create_task(self._reserving.give_back(one.upstream, str(one.lease.token), freed=slots))

    async def _ask_one(self, member: ReplicaLoad, *, ask: Ask, deadline: float | None) -> Promise | ServeError:
        left_s = self._connect_timeout_s
        if deadline is not None:
            left_s = min(left_s, max(0.0, deadline - monotonic()))
        try:
            upstream = self._fleet.upstream_of(member)
            with upstream.use():
                if not upstream.connected:
                    await upstream.ready(left_s)
                return Promise(await ask(upstream), upstream)
        except ServeError as error:
            return error


def _reservation(promises: Sequence[Promise]) -> GangReservation:
    return GangReservation(
        lease=GangLease.of([one.lease for one in promises]),
        members=tuple(one.upstream.replica for one in promises),
    )


class _Attempt:
    """Asks members as a ``GangAttempt`` says, and notes what each of them answered."""

    def __init__(self, ask: Callable[[ReplicaLoad], Awaitable[Promise | ServeError]]) -> None:
        self._ask = ask
        self.granted: dict[ReplicaLoad, Promise] = {}
        self.refused: dict[ReplicaLoad, ServeError] = {}

    async def run(self, attempt: GangAttempt) -> None:
        """Asks until the try is over."""
        while members := attempt.next():
            async with asyncio.TaskGroup() as group:
                for member in members:
                    group.create_task(self._ask_one(member))
            if self.refused:
                attempt.refused()

    async def _ask_one(self, member: ReplicaLoad) -> None:
        answer = await self._ask(member)
        if isinstance(answer, ServeError):
            self.refused[member] = answer
        else:
            self.granted[member] = answer
