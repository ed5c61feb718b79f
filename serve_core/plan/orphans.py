"""What runs or is reserved and nobody owns: ended and freed, after a grace period."""

from __future__ import annotations

from collections.abc import Mapping

from serve_core.model.ids import GangId, NodeId, gang_of
from serve_core.plan.actions import Action, Disown, FreePlacement, KillProcess
from serve_core.plan.observed import Observed, PlacementState, ProcessState
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord


def collect(
    gangs: Mapping[GangId, GangRecord], observed: Observed, *, now: float, policy: Policy | None = None
) -> tuple[Action, ...]:
    """What to do about it. Attached processes are told to drain; those that do not speak are killed. What is reserved is freed
    once nothing of its gang runs any more: a member that drains still uses it.
    """
    grace_s = (policy or Policy()).orphan_grace_s
    if not observed.listed_at or now < observed.listed_at + grace_s:
        return ()
    owned = {(member.replica_id, member.epoch) for gang in gangs.values() for member in gang.members}
    actions: list[Action] = []
    busy = {
        gang_of(replica_id) for replica_id, seen in observed.replicas.items() if seen.process is ProcessState.RUNNING
    }
    for replica_id, seen in sorted(observed.replicas.items()):
        if (replica_id, seen.epoch) in owned or seen.process is not ProcessState.RUNNING:
            continue
        gang = gang_of(replica_id)
        if seen.attached:
            message = "the controller has no record of it"
            actions.append(Disown(gang_id=gang, replica_id=replica_id, epoch=seen.epoch, message=message))
        else:
            actions.append(KillProcess(gang_id=gang, replica_id=replica_id, epoch=seen.epoch, node_id=NodeId("")))
    actions += [
        FreePlacement(gang_id=gang_id)
        for gang_id, placement in sorted(observed.placements.items())
        if placement.state is PlacementState.HELD and gang_id not in gangs and gang_id not in busy
    ]
    return tuple(actions)
