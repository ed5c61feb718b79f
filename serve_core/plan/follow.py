"""Follows each gang through its life: one function for each phase.

Effects are planned again until they are seen, as the phase says what is intended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from serve_core.errors import Reason
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.ending import draining, stopping
from serve_core.plan.lifecycle import Trigger
from serve_core.plan.loss import losses, lost
from serve_core.plan.members import hold_placement, judgements, seen_of
from serve_core.plan.observed import Observed, PlacementState, ProcessState
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord, MemberRecord
from serve_core.plan.starting import starting
from serve_core.plan.suspicion import in_rotation, silence


def follow_gangs(draft: Draft) -> None:
    """Moves every gang as far as what was seen of it allows."""
    for gang in in_order([*draft.gangs.values(), *draft.actors.values()]):
        follow(draft, gang)


def follow(draft: Draft, gang: GangRecord) -> None:
    """Moves one gang, phase by phase, as long as there is a reason to."""
    phase: ReplicaPhase | None = None
    while gang.phase is not phase and gang.phase is not ReplicaPhase.GONE:
        phase = gang.phase
        gang = _PHASES[phase](draft, gang)


def _reserving(draft: Draft, gang: GangRecord) -> GangRecord:
    state = hold_placement(draft, gang)
    if state is PlacementState.REFUSED:
        failure = draft.observed.placement(gang.gang_id).failure or Failure(
            reason=Reason.DEPLOYMENT_UNAVAILABLE.value,
            message=f"the backend has no room for {gang.gang_id}; see 'serve-core status' for what each node holds",
            time=draft.now,
        )
        return draft.fail(gang, Trigger.REFUSED, failure)
    return draft.move(gang, Trigger.PLACED) if state is PlacementState.HELD else gang


def _ready(draft: Draft, gang: GangRecord) -> GangRecord:
    hold_placement(draft, gang)
    spec = draft.spec(gang)
    if all(
        is_undisturbed(gang, member, spec, draft.observed, now=draft.now, policy=draft.policy)
        for member in gang.members
    ):
        seen = [seen_of(draft, member) for member in gang.members]
        draft.wake_at(min(silence(one, spec, draft.observed, policy=draft.policy).suspect_at for one in seen))
        return gang
    judged = judgements(draft, gang)
    broken = losses(judged)
    if broken:
        return lost(draft, gang, judged, broken)
    draft.wake_at(min(judgement.silent_at for _, judgement in judged))
    return _rotate(draft, gang)


def is_undisturbed(
    gang: GangRecord, member: MemberRecord, spec: DeploymentSpec, observed: Observed, *, now: float, policy: Policy
) -> bool:
    """Whether it serves, as it did before: the answer to almost every gang, so it is given first."""
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    report = seen.report
    if report is None or seen.process is not ProcessState.RUNNING or observed.has_lost(member.node_id):
        return False
    if report.failure is not None or report.reconfigure_failure is not None:
        return False
    if not (report.phase is ReplicaPhase.READY and report.healthy and report.is_ready and report.address):
        return False
    suspect_at = silence(seen, spec, observed, policy=policy).suspect_at
    return now < suspect_at and not gang.out_of_rotation and bool(gang.in_rotation_since)


def _rotate(draft: Draft, gang: GangRecord) -> GangRecord:
    """Notes whether a gang is in rotation. One that this controller has not heard of yet stays out if it was."""
    spec = draft.spec(gang)
    why = ""
    for member in gang.members:
        if seen_of(draft, member).report is None and gang.out_of_rotation:
            return gang
        routable, reason = in_rotation(member, draft.observed, spec, draft.now, policy=draft.policy)
        why = why or ("" if routable else f"replica {member.replica_id}: {reason}")
    if why and why != gang.out_of_rotation:
        gang = replace(gang, in_rotation_since=0.0, out_of_rotation=why)
    elif not why and (gang.out_of_rotation or not gang.in_rotation_since):
        gang = replace(gang, in_rotation_since=draft.now, out_of_rotation="")
    draft.save(gang)
    return gang


_PHASES: Mapping[ReplicaPhase, Callable[[Draft, GangRecord], GangRecord]] = {
    ReplicaPhase.RESERVING: _reserving,
    ReplicaPhase.STARTING: starting,
    ReplicaPhase.READY: _ready,
    ReplicaPhase.DRAINING: draining,
    ReplicaPhase.STOPPING: stopping,
}
