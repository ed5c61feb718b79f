"""A gang that comes up: every member is started, told of the others, and ready, or none is.

So is one of whose members some are started again in their places, while the others stay: see ``OnMemberFailure``.
"""

from __future__ import annotations

from dataclasses import replace

from serve_core.errors import Reason
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.plan.actions import Disown, KillProcess, StartProcess
from serve_core.plan.classify import Judgement, Verdict
from serve_core.plan.lifecycle import Trigger, member_ready
from serve_core.plan.members import Judgements, earlier, hold_placement, identity, judgements, seen_of
from serve_core.plan.observed import ProcessState, ReplicaObserved
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord, MemberRecord
from serve_core.plan.roster import knows_roster, tell_roster
from serve_core.plan.suspicion import silence


def starting(draft: Draft, gang: GangRecord) -> GangRecord:
    """Starts whom it has to, and says that it is ready, or that it failed."""
    hold_placement(draft, gang)
    judged = judgements(draft, gang)
    failure = _failure(draft, gang, judged)
    if failure is not None:
        return draft.fail(gang, _trigger(draft, gang, judged), failure)
    for member, judgement in judged:
        if judgement.verdict is Verdict.UNSEEN and _may_start(draft, gang, member):
            _start(draft, gang, member)
        if _is_ready(draft, gang, member, judgement) and member.phase is not ReplicaPhase.READY:
            gang = member_ready(gang, member.replica_id, now=draft.now)
            draft.save(gang)
    tell_roster(draft, gang)
    if all(_is_ready(draft, gang, member, judgement) for member, judgement in judged):
        return draft.move(gang, Trigger.READY)
    return gang


def named(gang: GangRecord, member: MemberRecord, failure: Failure) -> Failure:
    """A member's failure as its gang's: it says whose it is."""
    if gang.size == 1:
        return failure
    who = f"rank {member.rank} of {gang.size} ({member.replica_id})"
    return replace(failure, message=f"{who}: {failure.message}")


def _is_ready(draft: Draft, gang: GangRecord, member: MemberRecord, judgement: Judgement) -> bool:
    """The first time, its own ``is_ready`` must say so, too; later that only takes it out of rotation."""
    seen = seen_of(draft, member)
    if judgement.verdict is not Verdict.READY or not seen.attached or seen.report is None:
        return False
    return seen.report.is_ready and knows_roster(draft, gang, member)


def _failure(draft: Draft, gang: GangRecord, judged: Judgements) -> Failure | None:
    """Why the gang cannot come up, if so: by the member that failed first, as the others may have failed of that."""
    failed = [
        named(gang, member, judgement.failure)
        for member, judgement in judged
        if judgement.failure is not None and _has_failed(draft, gang, member, judgement.verdict)
    ]
    return min(failed, key=lambda failure: failure.time) if failed else _too_late(draft, gang, judged)


def _trigger(draft: Draft, gang: GangRecord, judged: Judgements) -> Trigger:
    if gang.is_repaired and not draft.spec(gang).gang.abort_in_flight:
        return Trigger.BROKEN
    # That a node is lost is not what was to be started there to blame for.
    lost = any(judgement.verdict is Verdict.NODE_LOST for _, judgement in judged)
    return Trigger.LOST if lost else Trigger.START_FAILED


def _has_failed(draft: Draft, gang: GangRecord, member: MemberRecord, verdict: Verdict) -> bool:
    match verdict:
        case Verdict.NODE_LOST | Verdict.REFUSED | Verdict.EXITED | Verdict.FAILED | Verdict.LEAVING:
            return True
        case Verdict.SILENT:
            # A constructor may hold the interpreter's lock; one that serves must be heard of.
            return gang.is_repaired and member.endpoint is not None
        case Verdict.UNSEEN:
            # The others were told of a process that is not there any more. One that served is not started twice.
            told = any(knows_roster(draft, gang, other) for other in gang.members if other is not member)
            return gang.size > 1 and (told or member.endpoint is not None)
        case _:
            return False


def _too_late(draft: Draft, gang: GangRecord, judged: Judgements) -> Failure | None:
    spec = draft.spec(gang)
    of_gang = spec.gang.start_deadline_s
    name, deadline_s = (
        ("start_deadline_s", spec.start_deadline_s) if of_gang is None else ("gang.start_deadline_s", of_gang)
    )
    deadline = _begins_at(draft, gang) + deadline_s + draft.policy.start_margin_s
    if draft.now < deadline:
        draft.wake_at(deadline)
        return None
    late = [member.replica_id for member, judgement in judged if not _is_ready(draft, gang, member, judgement)]
    return Failure(
        reason=Reason.START_TIMED_OUT.value,
        message=(
            f"replica {', '.join(late)} was not ready within {name} = {deadline_s:g} s; "
            f"make the constructor faster, or raise {name}"
        ),
        time=draft.now,
    )


def _begins_at(draft: Draft, gang: GangRecord) -> float:
    """When the members that come may all be started: again, not before the former ones have ended, and after a pause if that
    has happened before."""
    if not gang.is_repaired:
        return gang.phase_since
    spec = draft.spec(gang)
    return max(
        _pause_ends_at(draft, gang),
        gang.phase_since + (0.0 if spec.gang.abort_in_flight else spec.graceful_shutdown_timeout_s),
    )


def _pause_ends_at(draft: Draft, gang: GangRecord) -> float:
    """When members are started again, if that has happened before: without a lot, as it is drawn anew for each plan."""
    before = gang.restarts_in_a_row - 1 if gang.is_repaired else 0
    return gang.phase_since + (draft.policy.backoff_s(before, unit_random=0.0) if before > 0 else 0.0)


def _may_start(draft: Draft, gang: GangRecord, member: MemberRecord) -> bool:
    former = earlier(draft, member)
    if former is not None:
        _end(draft, gang, member, former)
        return False
    start_at = _pause_ends_at(draft, gang)
    if draft.now < start_at:
        draft.wake_at(start_at)
        return False
    # Those who run may have been told by an earlier controller of one who is not there: they say so when they attach.
    return all(
        seen.process is not ProcessState.RUNNING or seen.report is not None
        for seen in (seen_of(draft, other) for other in gang.members)
    )


def _end(draft: Draft, gang: GangRecord, member: MemberRecord, former: ReplicaObserved) -> None:
    """Ends the former process of a member, after what it has if it can: two of one rank there must never be."""
    spec = draft.spec(gang)
    give_up_at = gang.phase_since + spec.graceful_shutdown_timeout_s
    lost_at = silence(former, spec, draft.observed, policy=draft.policy).lost_at
    can_finish = former.attached and not spec.gang.abort_in_flight and draft.now < lost_at
    if can_finish and draft.now < give_up_at:
        message = f"it is replaced in its gang by epoch {member.epoch}"
        draft.actions.append(
            Disown(gang_id=gang.gang_id, replica_id=member.replica_id, epoch=former.epoch, message=message)
        )
        draft.wake_at(min(give_up_at, lost_at))
        return
    draft.actions.append(
        KillProcess(gang_id=gang.gang_id, replica_id=member.replica_id, epoch=former.epoch, node_id=member.node_id)
    )
    draft.wake_at(draft.now + draft.policy.kill_retry_s)


def _start(draft: Draft, gang: GangRecord, member: MemberRecord) -> None:
    spec = draft.spec(gang)
    env: dict[str, str] = {}
    if member.bundle.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in member.bundle.gpu_indices)
    role = spec.gang.role(member.rank)
    draft.actions.append(
        StartProcess(
            gang_id=gang.gang_id,
            replica=identity(gang, member, metadata=dict(spec.metadata), role=role),
            spec=spec,
            bundle=member.bundle,
            bundle_index=gang.bundle_index(member.rank),
            child_bundles=len(member.child_bundles),
            env=env,
            is_actor=gang.actor is not None,
        )
    )
