"""Judges of gangs: whole or not at all, in tables, in starts, in drains and in the accounts of failures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from serve_core.model.gang import GangRoster
from serve_core.model.ids import GangId, ReplicaId
from serve_core.model.replica import Replica, ReplicaPhase
from serve_core.plan.plan import Plan
from serve_core.plan.records import DeploymentRecord, GangRecord, Records
from tests.simulation.calls import Call, Kind
from tests.simulation.engine import broken

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.process import Process
    from tests.simulation.router import Router

Start = tuple[ReplicaId, int, int]
"""A start of a member, in an epoch of its gang."""


class GangChecks:
    """Told of what members of gangs do, and of what is done with them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._were_ready: dict[Start, None] = {}

    def members(self, gang_id: GangId) -> list[Process]:
        """The processes of a gang that live."""
        return [one for one in self._cluster.backend.processes.values() if one.action.gang_id == gang_id]

    def ready(self, process: Process) -> None:
        """A member takes requests, in the epoch of its gang that it knows."""
        self._were_ready[(process.replica_id, process.epoch, process.membership.acts_in)] = None

    def whole(self, replicas: Iterable[Replica]) -> None:
        """3: of each gang that is routed to there is every rank once, of one revision, in one epoch."""
        gangs: dict[GangId, list[Replica]] = {}
        for replica in replicas:
            gangs.setdefault(replica.gang.gang_id, []).append(replica)
        for gang_id, members in gangs.items():
            _is_whole(gang_id, members)

    def published(self, replicas: Iterable[Replica]) -> None:
        """2: whoever is routed to has been ready, in this epoch of its gang, and with it every other member."""
        for replica in replicas:
            start = (replica.replica_id, replica.epoch, replica.gang.epoch)
            if start not in self._were_ready:
                broken(2, f"{replica.replica_id} is published in epoch {replica.gang.epoch} and was never ready in it")

    def sent(self, router: Router, replica: Replica, call: Call) -> None:
        """2: a router sends only to gangs that it knows whole; a promise is used where it was made."""
        if call.kind is Kind.TOKEN or replica.gang.size == 1:
            return
        known = router.table.replicas
        others = [one for one in known.values() if one.gang.gang_id == replica.gang.gang_id]
        if replica.replica_id in known and len(others) < replica.gang.size:
            broken(2, f"{router.name} sends {call.name} to {replica.replica_id} and knows {len(others)} of its gang")

    def told(self, process: Process, roster: GangRoster) -> None:
        """3: a member learns who is in its gang."""
        named = [(member.rank, member.replica_id, member.epoch) for member in roster.members]
        own = (process.membership.gang.rank, process.replica_id, process.epoch)
        if [rank for rank, _, _ in named] != list(range(process.membership.gang.size)) or own not in named:
            broken(3, f"{process.process_id} is told of a gang of {named}")
        leader = self._cluster.backend.listening(roster.leader.address)
        if leader is not None and leader.membership.rendezvous_port != roster.rendezvous_port:
            broken(3, f"{process.process_id} is told of another port than that of {leader.process_id}")

    def leaves(self, process: Process) -> None:
        """8: a member that has finished ends: no other one of its gang may still have work."""
        if process.leaving.in_full or process.leaving.disowned:
            return
        for other in self.members(process.action.gang_id):
            if other.running and not other.faults:
                broken(8, f"{process.process_id} ends while {other.process_id} of its gang has work")

    def promised(self, call: Call) -> None:
        """1: a promise on a gang is one on every member of one gang, in one epoch of it."""
        _is_whole(call.granted_by[0].gang.gang_id, list(call.granted_by))
        if [lease.token.replica_id for lease in call.part_leases.values()] != [
            one.replica_id for one in call.granted_by
        ]:
            broken(1, f"{call.name} was promised {list(call.part_leases)} by {call.granted_by}")

    def waits(self, router: Router) -> None:
        """8: whoever waits for a gang holds nothing meanwhile."""
        for way in router.ways.values():
            if (
                way.waiter is not None
                and way.waiter.replica is None
                and any(part.call.lease for part in way.parts.values())
            ):
                broken(8, f"{way.call.name} waits for a gang in {router.name}, and holds slots of members")

    def is_aborted(self, process: Process) -> bool:
        """Whether a healthy member may be killed, because another one failed and its deployment wants it so."""
        record = self._cluster.store.records.deployments.get(process.key)
        gang = self._cluster.store.records.gangs.get(process.action.gang_id)
        if record is None or gang is None or gang.failure is None:
            return False
        return record.spec_of(gang).gang.abort_in_flight

    def planned(self, before: Records, planned: Plan) -> None:
        """3, 6: gangs are recorded whole, and what fails is counted once for each gang."""
        for gang in planned.saved_gangs:
            _is_recorded_whole(before.gangs.get(gang.gang_id), gang)
        after = planned.saved_deployment
        if after is not None and after.key in before.deployments:
            self._counted(before.deployments[after.key], after, before, planned)

    def _counted(self, old: DeploymentRecord, new: DeploymentRecord, before: Records, planned: Plan) -> None:
        replicas = [gang for gang in planned.saved_gangs if gang.actor is None]
        failed = sum(_has_failed(before.gangs.get(gang.gang_id), gang) for gang in replicas)
        failed += sum(
            before.gangs[gang_id].phase is not ReplicaPhase.STOPPING
            for gang_id in planned.deleted_gangs
            if gang_id in before.gangs and before.gangs[gang_id].actor is None
        )
        counted = max(new.start_failures - old.start_failures, new.crashes - old.crashes)
        if counted > failed:
            broken(8, f"{failed} gangs of {new.key} failed, and {counted} failures are counted")


def _is_whole(gang_id: GangId, members: list[Replica]) -> None:
    ranks = sorted(member.gang.rank for member in members)
    same = {(member.revision, member.gang.epoch, member.gang.size, member.key) for member in members}
    if ranks != list(range(members[0].gang.size)) or len(same) != 1:
        broken(3, f"gang {gang_id} is routed to with ranks {ranks} and {len(same)} kinds of members")


def _is_recorded_whole(before: GangRecord | None, gang: GangRecord) -> None:
    if [member.rank for member in gang.members] != list(range(len(gang.members))):
        broken(3, f"gang {gang.gang_id} is recorded with ranks {[member.rank for member in gang.members]}")
    if before is not None and [one.bundle for one in before.members] != [one.bundle for one in gang.members]:
        broken(6, f"gang {gang.gang_id} is recorded elsewhere than it was placed")


def _has_failed(before: GangRecord | None, gang: GangRecord) -> bool:
    if before is None:
        return False
    lost = before.phase is ReplicaPhase.READY and gang.phase is ReplicaPhase.STARTING
    return lost or (gang.failure is not None and before.failure is None) or gang.epoch > before.epoch
