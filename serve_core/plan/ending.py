"""A gang that goes: first it finishes what it has, then everything of it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve_core.model.ids import ReplicaId
from serve_core.plan.actions import FreePlacement, KillProcess, SendDrain
from serve_core.plan.lifecycle import Trigger
from serve_core.plan.members import earlier, has_ended, seen_of
from serve_core.plan.observed import PlacementState
from serve_core.plan.plan import Draft
from serve_core.plan.records import GangRecord, MemberRecord
from serve_core.plan.suspicion import silence


def draining(draft: Draft, gang: GangRecord) -> GangRecord:
    """Out of the table; told to drain once no router sends to it any more."""
    remaining = [member for member in gang.members if _may_finish(draft, gang, member)]
    if not remaining:
        return draft.move(gang, Trigger.DRAINED)
    spec, policy = draft.spec(gang), draft.policy
    # While nobody could be told to drain, no time of its budget was over.
    waits_since = max(gang.phase_since, draft.observed.listening_since)
    give_up_withdrawal_at = waits_since + policy.withdraw_timeout_s
    sent = [seen_of(draft, member).drain_sent_at for member in remaining]
    begun = max(sent) if all(sent) else give_up_withdrawal_at
    deadline = begun + spec.graceful_shutdown_timeout_s + policy.drain_margin_s
    if draft.now >= deadline:
        return draft.move(gang, Trigger.BUDGET_OVER)
    draft.wake_at(deadline)
    ids: frozenset[ReplicaId] = frozenset(member.replica_id for member in gang.members)
    # No router ever sends to an actor.
    if gang.actor is None and not ids <= draft.table.withdrawn and draft.now < give_up_withdrawal_at:
        draft.wake_at(give_up_withdrawal_at)
        if draft.table.wake_at is not None:
            draft.wake_at(draft.table.wake_at)
        return gang
    _tell(draft, gang, remaining)
    return gang


def stopping(draft: Draft, gang: GangRecord) -> GangRecord:
    """Ends what may run, frees what may be held, then forgets."""
    kills = list(_kills(draft, gang))
    if kills:
        draft.actions.extend(kills)
        draft.wake_at(draft.now + draft.policy.kill_retry_s)
    elif draft.observed.placement(gang.gang_id).state is not PlacementState.FREED:
        draft.actions.append(FreePlacement(gang_id=gang.gang_id))
        draft.wake_at(draft.now + draft.policy.kill_retry_s)
    else:
        return draft.move(gang, Trigger.FREED)
    return gang


def _may_finish(draft: Draft, gang: GangRecord, member: MemberRecord) -> bool:
    """Whether a member may have something to finish. The others of a gang do not wait for one that never served, or is lost."""
    if has_ended(draft, member) or draft.observed.has_lost(member.node_id):
        return False
    if gang.size == 1:
        return True
    lost_at = silence(seen_of(draft, member), draft.spec(gang), draft.observed, policy=draft.policy).lost_at
    if draft.now < lost_at:
        draft.wake_at(lost_at)
    return member.endpoint is not None and draft.now < lost_at


def _tell(draft: Draft, gang: GangRecord, remaining: Sequence[MemberRecord]) -> None:
    """Members of a gang finish together: nobody is told to end while another one still has work, which may need it."""
    hold = gang.size > 1 and not all(_has_finished(draft, member) for member in remaining)
    for member in remaining:
        seen = seen_of(draft, member)
        if seen.attached and (not seen.drain_sent_at or (seen.drain_held and not hold)):
            draft.actions.append(
                SendDrain(
                    gang_id=gang.gang_id,
                    replica_id=member.replica_id,
                    epoch=member.epoch,
                    budget_s=draft.spec(gang).graceful_shutdown_timeout_s,
                    hold=hold,
                )
            )


def _has_finished(draft: Draft, member: MemberRecord) -> bool:
    report = seen_of(draft, member).report
    return report is not None and report.drained


def _kills(draft: Draft, gang: GangRecord) -> Iterator[KillProcess]:
    for member in gang.members:
        former = earlier(draft, member)
        seen = draft.observed.replicas.get(member.replica_id)
        # A start of the unseen may be under way, so it is killed as well.
        if former is not None or seen is None or seen.epoch < member.epoch or not has_ended(draft, member):
            yield KillProcess(
                gang_id=gang.gang_id,
                replica_id=member.replica_id,
                epoch=former.epoch if former is not None else member.epoch,
                node_id=member.node_id,
            )
