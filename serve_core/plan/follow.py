"""Follows each gang through its life: one function for each phase.

Effects are planned again until they are seen, as the phase says what is intended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from serve_core.errors import Reason
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure, Gang, Replica, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actions import FreePlacement, KillProcess, ReservePlacement, SendDrain, StartProcess
from serve_core.plan.classify import Judgement, Verdict, judge
from serve_core.plan.lifecycle import Trigger, member_ready
from serve_core.plan.observed import Observed, PlacementState, ProcessState
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord, MemberRecord
from serve_core.plan.suspicion import in_rotation, silence

Judgements = Sequence[tuple[MemberRecord, Judgement]]


def follow_gangs(draft: Draft) -> None:
    """Moves every gang as far as what was seen of it allows."""
    for gang in in_order([*draft.gangs.values(), *draft.actors.values()]):
        follow(draft, gang)


def follow(draft: Draft, gang: GangRecord) -> None:
    """Moves one gang, at most one phase."""
    match gang.phase:
        case ReplicaPhase.RESERVING:
            _reserving(draft, gang)
        case ReplicaPhase.STARTING:
            _starting(draft, gang)
        case ReplicaPhase.READY:
            _ready(draft, gang)
        case ReplicaPhase.DRAINING:
            _draining(draft, gang)
        case ReplicaPhase.STOPPING | ReplicaPhase.GONE:
            _stopping(draft, gang)
        case _:
            assert_never(gang.phase)


def identity(
    gang: GangRecord,
    member: MemberRecord,
    *,
    metadata: dict[str, str],
    role: str = "",
    address: str = "",
    zone: str = "",
) -> Replica:
    """Who a member is, and where, as far as that is known."""
    return Replica(
        replica_id=member.replica_id,
        key=gang.key,
        revision=gang.revision,
        epoch=member.epoch,
        address=address,
        node_id=member.node_id,
        zone=zone,
        gang=Gang(gang_id=gang.gang_id, rank=member.rank, size=len(gang.members), epoch=gang.epoch, role=role),
        metadata=metadata,
    )


def _judge(draft: Draft, gang: GangRecord, member: MemberRecord) -> Judgement:
    return judge(member, draft.spec(gang), draft.observed, now=draft.now, policy=draft.policy)


def _hold_placement(draft: Draft, gang: GangRecord) -> PlacementState:
    """Asks for the reservation until the backend has answered: a new one must be told of what lives, too."""
    state = draft.observed.placement(gang.gang_id).state
    if state in (PlacementState.UNKNOWN, PlacementState.FREED):
        draft.actions.append(ReservePlacement(gang_id=gang.gang_id, key=gang.key, bundles=gang.bundles))
    return state


def _reserving(draft: Draft, gang: GangRecord) -> None:
    state = _hold_placement(draft, gang)
    if state is PlacementState.REFUSED:
        failure = draft.observed.placement(gang.gang_id).failure or Failure(
            reason=Reason.DEPLOYMENT_UNAVAILABLE.value,
            message=f"the backend has no room for {gang.gang_id}; see 'serve-core status' for what each node holds",
            time=draft.now,
        )
        follow(draft, draft.fail(gang, Trigger.REFUSED, failure))
    elif state is PlacementState.HELD:
        follow(draft, draft.move(gang, Trigger.PLACED))


def _starting(draft: Draft, gang: GangRecord) -> None:
    _hold_placement(draft, gang)
    judgements = [(member, _judge(draft, gang, member)) for member in gang.members]
    failure = _start_failure(draft, gang, judgements)
    if failure is not None:
        follow(draft, draft.fail(gang, Trigger.START_FAILED, failure))
        return
    for member, judgement in judgements:
        if judgement.verdict is Verdict.UNSEEN:
            _start(draft, gang, member)
        if _is_ready(draft, member, judgement) and member.phase is not ReplicaPhase.READY:
            gang = member_ready(gang, member.replica_id, now=draft.now)
            draft.save(gang)
    if all(_is_ready(draft, member, judgement) for member, judgement in judgements):
        follow(draft, draft.move(gang, Trigger.READY))


def _is_ready(draft: Draft, member: MemberRecord, judgement: Judgement) -> bool:
    """The first time, its own ``is_ready`` must say so, too; later that only takes it out of rotation."""
    seen = draft.observed.replica(member.replica_id, epoch=member.epoch)
    return judgement.verdict is Verdict.READY and seen.attached and seen.report is not None and seen.report.is_ready


def _start_failure(draft: Draft, gang: GangRecord, judgements: Judgements) -> Failure | None:
    """The first member's failure to start, if any. Silence is not one: a constructor may hold the interpreter's lock."""
    failing = (Verdict.REFUSED, Verdict.EXITED, Verdict.FAILED, Verdict.LEAVING)
    for _, judgement in judgements:
        if judgement.verdict in failing:
            return judgement.failure
    deadline_s = draft.spec(gang).start_deadline_s
    deadline = gang.phase_since + deadline_s + draft.policy.start_margin_s
    if draft.now < deadline:
        draft.wake_at(deadline)
        return None
    late = [member.replica_id for member in gang.members if member.phase is not ReplicaPhase.READY]
    return Failure(
        reason=Reason.START_TIMED_OUT.value,
        message=(
            f"replica {', '.join(late)} was not ready within start_deadline_s = {deadline_s:g} s; "
            "make the constructor faster, or raise start_deadline_s"
        ),
        time=draft.now,
    )


def _start(draft: Draft, gang: GangRecord, member: MemberRecord) -> None:
    spec = draft.spec(gang)
    env: dict[str, str] = {}
    if member.bundle.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in member.bundle.gpu_indices)
    draft.actions.append(
        StartProcess(
            gang_id=gang.gang_id,
            replica=identity(gang, member, metadata=dict(spec.metadata), role=spec.gang.role(member.rank)),
            spec=spec,
            bundle=member.bundle,
            bundle_index=gang.bundle_index(member.rank),
            env=env,
            is_actor=gang.actor is not None,
        )
    )


def _ready(draft: Draft, gang: GangRecord) -> None:
    _hold_placement(draft, gang)
    spec = draft.spec(gang)
    if len(gang.members) == 1 and is_undisturbed(
        gang, gang.members[0], spec, draft.observed, now=draft.now, policy=draft.policy
    ):
        seen = draft.observed.replica(gang.members[0].replica_id, epoch=gang.members[0].epoch)
        draft.wake_at(silence(seen, spec, draft.observed, policy=draft.policy).suspect_at)
        return
    judgements = [_judge(draft, gang, member) for member in gang.members]
    for verdicts, trigger in (
        ((Verdict.UNSEEN, Verdict.REFUSED, Verdict.EXITED, Verdict.SILENT), Trigger.LOST),
        ((Verdict.FAILED, Verdict.LEAVING), Trigger.ILL),
    ):
        for judgement in judgements:
            if judgement.verdict in verdicts and judgement.failure is not None:
                follow(draft, draft.fail(gang, trigger, judgement.failure))
                return
    draft.wake_at(min(judgement.silent_at for judgement in judgements))
    _rotate(draft, gang)


def is_undisturbed(
    gang: GangRecord, member: MemberRecord, spec: DeploymentSpec, observed: Observed, *, now: float, policy: Policy
) -> bool:
    """Whether it serves, as it did before: the answer to almost every gang, so it is given first."""
    seen = observed.replica(member.replica_id, epoch=member.epoch)
    report = seen.report
    if report is None or seen.process is not ProcessState.RUNNING or report.failure is not None:
        return False
    if not (report.phase is ReplicaPhase.READY and report.healthy and report.is_ready and report.address):
        return False
    suspect_at = silence(seen, spec, observed, policy=policy).suspect_at
    return now < suspect_at and not gang.out_of_rotation and bool(gang.in_rotation_since)


def _rotate(draft: Draft, gang: GangRecord) -> None:
    """Notes whether a gang is in rotation. One that this controller has not heard of yet stays out if it was."""
    spec = draft.spec(gang)
    why = ""
    for member in gang.members:
        unheard = draft.observed.replica(member.replica_id, epoch=member.epoch).report is None
        if unheard and gang.out_of_rotation:
            return
        routable, reason = in_rotation(member, draft.observed, spec, draft.now, policy=draft.policy)
        why = why or ("" if routable else f"replica {member.replica_id}: {reason}")
    if why and why != gang.out_of_rotation:
        draft.save(replace(gang, in_rotation_since=0.0, out_of_rotation=why))
    elif not why and (gang.out_of_rotation or not gang.in_rotation_since):
        draft.save(replace(gang, in_rotation_since=draft.now, out_of_rotation=""))


def _draining(draft: Draft, gang: GangRecord) -> None:
    """Out of the table; told to drain once no router sends to it any more."""
    remaining = [member for member in gang.members if not _has_ended(draft, member)]
    if not remaining:
        follow(draft, draft.move(gang, Trigger.DRAINED))
        return
    spec, policy = draft.spec(gang), draft.policy
    # While nobody could be told to drain, no time of its budget was over.
    waits_since = max(gang.phase_since, draft.observed.listening_since)
    give_up_withdrawal_at = waits_since + policy.withdraw_timeout_s
    sent = [_drain_sent_at(draft, member) for member in remaining]
    begun = max(sent) if all(sent) else give_up_withdrawal_at
    deadline = begun + spec.graceful_shutdown_timeout_s + policy.drain_margin_s
    if draft.now >= deadline:
        follow(draft, draft.move(gang, Trigger.BUDGET_OVER))
        return
    draft.wake_at(deadline)
    ids: frozenset[ReplicaId] = frozenset(member.replica_id for member in gang.members)
    if not ids <= draft.table.withdrawn and draft.now < give_up_withdrawal_at:
        draft.wake_at(give_up_withdrawal_at)
        if draft.table.wake_at is not None:
            draft.wake_at(draft.table.wake_at)
        return
    for member in remaining:
        if draft.observed.replica(member.replica_id, epoch=member.epoch).attached and not _drain_sent_at(draft, member):
            draft.actions.append(
                SendDrain(
                    gang_id=gang.gang_id,
                    replica_id=member.replica_id,
                    epoch=member.epoch,
                    budget_s=spec.graceful_shutdown_timeout_s,
                )
            )


def _drain_sent_at(draft: Draft, member: MemberRecord) -> float:
    return draft.observed.replica(member.replica_id, epoch=member.epoch).drain_sent_at


def _has_ended(draft: Draft, member: MemberRecord) -> bool:
    return draft.observed.replica(member.replica_id, epoch=member.epoch).process is ProcessState.EXITED


def _stopping(draft: Draft, gang: GangRecord) -> None:
    """Ends what may run, frees what may be held, then forgets."""
    kills = [
        KillProcess(gang_id=gang.gang_id, replica_id=member.replica_id, epoch=member.epoch, node_id=member.node_id)
        for member in gang.members
        # A start of the unseen may be under way, so it is killed as well.
        if member.replica_id not in draft.observed.replicas or not _has_ended(draft, member)
    ]
    if kills:
        draft.actions.extend(kills)
        draft.wake_at(draft.now + draft.policy.kill_retry_s)
    elif draft.observed.placement(gang.gang_id).state is not PlacementState.FREED:
        draft.actions.append(FreePlacement(gang_id=gang.gang_id))
        draft.wake_at(draft.now + draft.policy.kill_retry_s)
    else:
        draft.move(gang, Trigger.FREED)
