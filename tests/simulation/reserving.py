"""Promises of slots on every member of a gang, or on none, asked for as a router's shell does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from router.core.load import ReplicaLoad
from router.core.retry import Outcome
from serve_core.errors import ReplicaUnavailableError, ServeError
from serve_core.model.slots import GangLease, Lease
from tests.simulation.calls import Call, Kind
from tests.simulation.ways import Way

if TYPE_CHECKING:
    from tests.simulation.router import Router


class GangAttempt:
    """One try to reserve a gang for a call: all members at once, and after a refusal in the order of ranks.

    Args:
        router: Whose call it is.
        way: The call, whose turn it is.
    """

    def __init__(self, router: Router, way: Way) -> None:
        assert way.waiter is not None
        self._router = router
        self._way = way
        self._members = way.waiter.members
        self._refused: dict[ReplicaLoad, ServeError] = {}
        self._open: dict[ReplicaLoad, Way] = {}
        self._left = 0

    def begin(self) -> None:
        """Asks."""
        kept, self._way.parts = self._way.parts, []
        for part in kept:
            self._router.abandon(part)
        for member in self._members if not self._way.refusals else self._members[:1]:
            self._ask(member)

    def _ask(self, member: ReplicaLoad) -> None:
        call, rank = self._way.call, len(self._way.parts)
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
        self._way.parts.append(part)
        self._open[member] = part
        upstream = self._router.upstream_of(member)
        if upstream is None:
            self._answered(member, part, ReplicaUnavailableError(f"rank {rank} has left this router's table"))
            return
        part.upstream = upstream
        self._router.ways[asked.name] = part
        upstream.reserve(part)

    def _answered(self, member: ReplicaLoad, part: Way, error: ServeError | None) -> None:
        self._open.pop(member, None)
        if error is not None:
            self._refused[member] = error
            self._router.ways.pop(part.call.name, None)
        router, way = self._router, self._way
        if router.ways.get(way.call.name) is not way:
            # Its caller has gone.
            if part.call.lease is not None:
                router.abandon(part)
            return
        if self._open:
            return
        if self._refused:
            self._give_back()
        elif len(way.parts) < len(self._members):
            self._ask(self._members[len(way.parts)])
        else:
            self._grant()

    def _grant(self) -> None:
        call = self._way.call
        leases = [part.call.lease for part in self._way.parts if part.call.lease is not None]
        call.gang_lease = GangLease.of(leases)
        call.part_leases = {lease.token.replica_id: lease for lease in leases}
        call.granted_by = [part.upstream.replica for part in self._way.parts if part.upstream is not None]
        self._router.cluster.checks.gangs.promised(call)
        for part in self._way.parts:
            self._router.ways.pop(part.call.name, None)
        self._way.parts = []
        self._router.finish(self._way)
        call.end(None)

    def _give_back(self) -> None:
        """What was granted is released before the call waits again, so that nobody waits for what another one holds."""
        granted = [part for part in self._way.parts if part.call.lease is not None]
        if self._router.cluster.cores.holds_and_waits:
            self._wait_again()
            return
        self._left = len(granted)
        for part in granted:
            self._router.ways.pop(part.call.name, None)
            if part.upstream is not None and part.call.lease is not None:
                token = str(part.call.lease.token)
                part.upstream.give_back(token, freed=self._way.call.slots, done=self._given_back)
        self._way.parts = []
        if not granted:
            self._wait_again()

    def _given_back(self, error: ServeError | None, lease: Lease | None) -> None:
        self._left -= 1
        if not self._left:
            self._wait_again()

    def _wait_again(self) -> None:
        router, way = self._router, self._way
        if router.ways.get(way.call.name) is not way:
            return
        outcomes = {member: router.cluster.cores.outcome(error) for member, error in self._refused.items()}
        for member, error in self._refused.items():
            if outcomes[member] is Outcome.FINAL:
                router.finish(way)
                way.call.end(error)
                return
            upstream = router.upstream_of(member)
            if outcomes[member] is Outcome.UNREACHABLE and upstream is not None:
                upstream.restart_watch()
        way.refusals += 1
        router.gang_again(way, outcomes)
