"""Judges the end: after the last fault everything converges to what is wanted, or to a stated failure (invariant 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_core.model.ids import ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.records import DeploymentRecord, GangRecord
from tests.simulation.actor_rest import actors_unrest, lost_states, waits_for_actors
from tests.simulation.actors import is_degraded
from tests.simulation.autoscaling import fewest
from tests.simulation.checks import gave_up, in_whole_gangs
from tests.simulation.line import may_take_room, next_spec

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


def unrest(cluster: Cluster) -> str:
    """What is not as it should be at rest; empty if all is."""
    controller, records = cluster.controller, cluster.store.records
    if controller is None:
        return "there is no controller"
    owned = {f"{member.replica_id}.{member.epoch}" for gang in records.gangs.values() for member in gang.members}
    running = set(cluster.backend.processes)
    if running != owned:
        return f"{sorted(running ^ owned)} run without a record, or are recorded and do not run"
    if placements := unowned(cluster):
        return f"the placements {placements} are not owned, or not there"
    processes = [process for process in cluster.backend.processes.values() if process.acting is None]
    ready = {process.replica_id for process in processes if process.ready}
    for process in cluster.backend.processes.values():
        if process.slots.ledger.suspended:
            return f"{process.process_id} takes nothing"
    for router in cluster.routers.values():
        if set(router.table.replicas) != ready:
            return f"{router.name} does not route to what is ready: {sorted(set(router.table.replicas) ^ ready)}"
    serving = Counter(process.replica_id for process in cluster.backend.processes.values() if process.ready)
    for record in records.deployments.values():
        if wrong := _not_as_wanted(cluster, record, serving) or actors_unrest(cluster, record):
            return wrong
    return lost_states(cluster)


def unowned(cluster: Cluster) -> list[str]:
    """Placements that are held for no gang, and gangs that hold none."""
    placed = {placement.placement_id for placement in cluster.backend.accounts.placements}
    return sorted(placed ^ set(cluster.store.records.gangs))


def _not_as_wanted(cluster: Cluster, record: DeploymentRecord, serving: Counter[ReplicaId]) -> str:
    if record.deleting:
        return f"{record.key} is still there"
    gangs = cluster.store.records.gangs_of(record.key)
    if gave_up(record):
        # What served before, though it never was whole, may serve on; nothing else is left.
        left = [gang.gang_id for gang in gangs if gang.phase is not ReplicaPhase.READY]
        return f"{record.key} was given up, and {left} are left" if left else ""
    least = fewest(record)
    if least is not None and in_whole_gangs(record.num_replicas, record.target_spec.gang.size) != least:
        return f"{record.key} is to have {record.num_replicas} replicas though nobody calls it, and {least} would do"
    # A failure that is held leaves everything where it is, of whatever revision; all that is wanted serves.
    held = record.terminal is not None
    unready = [gang.gang_id for gang in gangs if gang.phase is not ReplicaPhase.READY]
    others = [gang for gang in gangs if gang.revision != record.target and not held]
    ready = sum(serving[member.replica_id] for gang in gangs for member in gang.members)
    if not unready and (_waits(cluster, record, others, ready) or waits_for_actors(cluster, record)):
        return ""
    if unready or others:
        left = unready + [gang.gang_id for gang in others]
        return f"{record.key} should run {record.target}, and still has {left}"
    staying = [gang.gang_id for gang in gangs if _should_have_moved(cluster, record, gang)]
    if staying:
        return f"{staying} of {record.key} are on nodes that are drained, and there is room elsewhere"
    size = record.target_spec.gang.size
    wanted = in_whole_gangs(record.num_replicas, size)
    # Places whose gangs were lost too often in a row stay empty, and that is said.
    given_up = record.given_up * size if is_degraded(record) else 0
    if not wanted - given_up <= ready <= wanted and not (held and ready > wanted):
        return f"{record.key} has {ready} of {wanted} replicas ready"
    return ""


def _waits(cluster: Cluster, record: DeploymentRecord, others: Sequence[GangRecord], ready: int) -> bool:
    """Whether what is missing does not fit anywhere, or not yet, and none of another revision can be spared for it."""
    mine = ready - sum(len(gang.members) for gang in others)
    if mine >= record.num_replicas or may_take_room(cluster, record, next_spec(record)):
        return False
    unavailable = record.target_spec.rollout.max_unavailable.rounded_down(record.num_replicas)
    return all(ready - len(gang.members) < record.num_replicas - unavailable for gang in others)


def _should_have_moved(cluster: Cluster, record: DeploymentRecord, gang: GangRecord) -> bool:
    """Whether a gang is on a node that is drained, though it is past the time for that, or there is room elsewhere."""
    drained = [cluster.store.records.nodes.get(member.node_id) for member in gang.members]
    deadlines = [node.deadline for node in drained if node is not None]
    late = any(deadline is not None and cluster.engine.now > deadline for deadline in deadlines)
    if not deadlines or late:
        return late
    return may_take_room(cluster, record, record.spec_of(gang))
