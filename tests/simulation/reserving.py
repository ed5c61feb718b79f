"""Promises of slots on every member of a gang, or on none, asked for as a router's shell does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from router.core.attempt import GangAttempt
from router.core.load import ReplicaLoad
from router.core.retry import Outcome
from serve_core.errors import ReplicaUnavailableError, ServeError
from serve_core.model.slots import GangLease, Lease
from tests.simulation.calls import Call, Kind
from tests.simulation.ways import Way

if TYPE_CHECKING:
    from tests.simulation.router import Router


class GangReserving:
    """One try to reserve a gang for a call whose turn it is.

    Args:
        router: Whose call it is.
        way: The call.
    """

    def __init__(self, router: Router, way: Way) -> None:
        assert way.waiter is not None
        self._router = router
        self._way = way
        self._members = way.waiter.members
        self._attempt = GangAttempt(self._members, at_once=not way.refusals)
        self._refused: dict[ReplicaLoad, ServeError] = {}
        self._open = 0

    def begin(self) -> None:
        """Asks whom the attempt names; whatever came of it is done once nobody is left to ask."""
        asked = self._attempt.next()
        self._open = len(asked)
        for member in asked:
            self._ask(member)
        if asked:
            return
        if self._refused:
            self._give_back()
        else:
            self._grant()

    def _ask(self, member: ReplicaLoad) -> None:
        call, upstream = self._way.call, self._router.upstream_of(member)
        asked = Call(
            name=f"{call.name}/{call.parts}",
            kind=Kind.HOLD,
            key=call.key,
            slots=call.slots,
            ttl_s=call.ttl_s,
            request_id=call.request_id,
            arrived_at=self._router.engine.now,
            deadline=call.deadline,
            router=self._router.name,
        )
        call.parts += 1
        part = Way(asked, None, None, answered=partial(self._answered, member))
        self._way.parts[member.replica_id] = part
        self._router.ways[asked.name] = part
        if upstream is None:
            error = ReplicaUnavailableError(f"{member.replica_id} has left this router's table")
            self._router.later(0.0, partial(self._answered, member, part, error))
        else:
            part.upstream = upstream
            upstream.reserve(part)

    def _answered(self, member: ReplicaLoad, part: Way, error: ServeError | None) -> None:
        router, way = self._router, self._way
        if router.ways.get(part.call.name) is not part:
            return  # Its caller has gone, and all that was promised is given back.
        self._open -= 1
        if error is not None:
            del router.ways[part.call.name]
            self._refused[member] = error
            self._attempt.refused()
        if not self._open and router.ways.get(way.call.name) is way:
            self.begin()

    def _grant(self) -> None:
        call = self._way.call
        parts = [self._way.parts[member.replica_id] for member in self._members]
        leases = [part.call.lease for part in parts if part.call.lease is not None]
        call.gang_lease = GangLease.of(leases)
        call.part_leases = {lease.token.replica_id: lease for lease in leases}
        call.granted_by = [part.upstream.replica for part in parts if part.upstream is not None]
        self._router.cluster.checks.gangs.promised(call)
        for part in parts:
            del self._router.ways[part.call.name]
        self._way.parts.clear()
        self._router.finish(self._way)
        call.end(None)

    def _give_back(self) -> None:
        """What was granted is released before the call waits again, so that nobody waits for what another one holds."""
        if self._router.cluster.cores.holds_and_waits:
            self._wait_again()
            return
        granted = [part for part in self._way.parts.values() if part.call.lease is not None]
        self._way.parts.clear()
        self._open = len(granted)
        for part in granted:
            del self._router.ways[part.call.name]
            if part.upstream is not None and part.call.lease is not None:
                token = str(part.call.lease.token)
                part.upstream.give_back(token, freed=self._way.call.slots, done=self._given_back)
        if not granted:
            self._wait_again()

    def _given_back(self, error: ServeError | None, lease: Lease | None) -> None:
        self._open -= 1
        if not self._open:
            self._wait_again()

    def _wait_again(self) -> None:
        router, way = self._router, self._way
        if router.ways.get(way.call.name) is not way:
            return
        outcomes = {member: router.cluster.cores.outcome(error) for member, error in self._refused.items()}
        for member, error in self._refused.items():
            upstream = router.upstream_of(member)
            if outcomes[member] is Outcome.FINAL:
                router.finish(way)
                way.call.end(error)
                return
            if outcomes[member] is Outcome.UNREACHABLE and upstream is not None:
                upstream.restart_watch()
        way.refusals += 1
        router.gang_again(way, outcomes)
