"""How a change of revision gets on: when it begins, pauses by itself, is done, or has taken too long."""

from __future__ import annotations

from dataclasses import replace

from serve_core.errors import Reason
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.status import ConditionType
from serve_core.plan.conditions import WAITING
from serve_core.plan.gate import is_open
from serve_core.plan.plan import Draft
from serve_core.plan.record_parts import RolloutRecord
from serve_core.plan.records import DeploymentRecord, replicas_in
from serve_core.plan.rollback import fail, served_so_far
from serve_core.plan.rollout import available, is_changing, is_stopped, pause_at


def begin(draft: Draft) -> None:
    """Notes that another revision is wanted, or that the same is tried again, and that an operator paused or resumed."""
    record, now = draft.deployment, draft.now
    if record.deleting or (record.rollout is None and record.last_good == record.target):
        return
    rollout = record.rollout
    if rollout is None or is_of_the_past(record, rollout):
        serving = record.last_good if is_changing(record) else (rollout.to_revision if rollout is not None else None)
        rollout = RolloutRecord(
            from_revision=serving,
            to_revision=record.target,
            started_at=now,
            served=_served_before(draft),
            progress_at=now,
            paused=record.paused,
        )
        record = replace(record, vacant_places=(), given_up=0, given_up_for=None)
        draft.reasons.append(f"{record.key} changes to revision {record.target}")
    resumed = rollout.paused and not record.paused
    if resumed or not rollout.progress_at:
        rollout = replace(rollout, progress_at=now)
    by_share = rollout.paused_by_share and record.paused
    if (rollout.paused, rollout.paused_by_share) != (record.paused, by_share):
        rollout = replace(rollout, paused=record.paused, paused_by_share=by_share)
    draft.deployment = record if rollout is record.rollout else replace(record, rollout=rollout)


def advance(draft: Draft) -> None:
    """Counts what is available, and does what follows from that and from the time."""
    record = draft.deployment
    if record.deleting:
        return
    if record.impaired and _serving(draft) >= record.num_replicas:
        draft.deployment = record = replace(record, impaired=False)
    rollout = record.rollout
    if rollout is None or rollout.finished_at:
        return
    count = replicas_in(available(draft, draft.live(record.target)))
    served = _served_while_stopped(draft, rollout)
    if (rollout.available, rollout.served) != (count, served):
        rollout = replace(rollout, available=count, served=served)
    if count > rollout.best_available:
        rollout = replace(rollout, best_available=count, progress_at=draft.now, crashes=0)
    elif _something_left(draft):
        rollout = replace(rollout, progress_at=draft.now)
    if rollout is not record.rollout:
        draft.deployment = replace(record, rollout=rollout)
    _pause_by_itself(draft, rollout)
    record = draft.deployment
    whole = count >= record.num_replicas and is_open(record, record.target)
    if whole and not (record.paused and is_changing(record)):
        _complete(draft, rollout)
    elif record.terminal is None:
        _watch_the_clock(draft, rollout)


def deadline_of(record: DeploymentRecord, *, listening_since: float) -> float | None:
    """When a change has failed unless it gets on; None while it does not wait for progress.

    A roll back to what ran whole has no deadline: there is nothing else to fall back on. Nor has a first deploy while
    it only waits for room that others hold; one that would not fit even if nothing else ran has. What a controller that was
    away did not do is no one's fault.
    """
    rollout = record.rollout
    if rollout is None or rollout.finished_at or record.terminal is not None or record.deleting:
        return None
    if record.last_good == record.target or (record.paused and is_changing(record)):
        return None
    if record.last_good is None and record.waiting_since:
        return None
    return max(rollout.progress_at, listening_since) + record.target_spec.rollout.progress_deadline_s


def has_room(before: DeploymentRecord, after: DeploymentRecord, *, now: float) -> DeploymentRecord:
    """The record after a plan, in which the end of a wait for room is progress."""
    rollout = after.rollout
    if rollout is None or rollout.finished_at:
        return after
    found = _waits_for_room(before) and not _waits_for_room(after)
    if not found and not (before.waiting_since and not after.waiting_since):
        return after
    return replace(after, rollout=replace(rollout, progress_at=now))


def is_of_the_past(record: DeploymentRecord, rollout: RolloutRecord) -> bool:
    """Whether it led elsewhere, or was over before its end was wanted anew."""
    tried_again = rollout.failed_revision == record.target and record.terminal is None
    return (
        rollout.to_revision != record.target
        or tried_again
        or bool(rollout.finished_at and record.last_good != record.target)
    )


def _served_before(draft: Draft) -> int | None:
    """What a change that begins must keep serving, if no fewer are wanted. None for a first deploy."""
    rollout = draft.deployment.rollout
    if rollout is not None and not rollout.finished_at:
        return served_so_far(draft, rollout)
    return draft.deployment.observed_replicas


def _served_while_stopped(draft: Draft, rollout: RolloutRecord) -> int | None:
    """What serves grows while a change is stopped: what it has grown to is kept when the change goes on."""
    record = draft.deployment
    if rollout.served is None or not (is_changing(record) and is_stopped(record)):
        return rollout.served
    return max(rollout.served, min(served_so_far(draft, rollout), record.num_replicas))


def _serving(draft: Draft) -> int:
    return draft.settled.replicas + replicas_in(gang for gang in draft.live(draft.deployment.target) if gang.serves)


def _something_left(draft: Draft) -> bool:
    """Whether an old gang has gone as it should: long drains are progress, too."""
    return any(
        gang.phase is ReplicaPhase.GONE and gang.failure is None and gang.revision != draft.deployment.target
        for gang in draft.gangs.values()
    )


def _pause_by_itself(draft: Draft, rollout: RolloutRecord) -> None:
    record, share = draft.deployment, draft.deployment.target_spec.rollout.pause_at
    if share is None or rollout.pause_passed or not is_changing(record) or record.terminal is not None:
        return
    if not record.num_replicas:
        return
    if rollout.available < pause_at(record):
        return
    draft.reasons.append(f"{record.key} pauses at {share}")
    by_share = not record.paused
    rollout = replace(rollout, paused=True, paused_by_share=by_share, pause_passed=True)
    draft.deployment = replace(record, paused=True, rollout=rollout)


def _complete(draft: Draft, rollout: RolloutRecord) -> None:
    record = draft.deployment
    draft.reasons.append(f"{record.key} runs revision {record.target} whole")
    if rollout.failed_revision == record.target:  # It came up in the end, after it was given up.
        rollout = replace(rollout, failed_revision=None, failure=None)
    draft.deployment = replace(
        record,
        last_good=record.target,
        terminal=None,
        impaired=False,
        start_failures=0,
        unproven=not rollout.best_available,
        rollout=replace(rollout, finished_at=draft.now, waiting_for=""),
    )


def _watch_the_clock(draft: Draft, rollout: RolloutRecord) -> None:
    record = draft.deployment
    deadline = deadline_of(record, listening_since=draft.observed.listening_since)
    if deadline is None:
        return
    if draft.now < deadline:
        draft.wake_at(deadline)
        return
    limit_s = record.target_spec.rollout.progress_deadline_s
    what = f"; it waited for {rollout.waiting_for}" if rollout.waiting_for else ""
    last = f"; the last failure: {record.failures[0].message}" if _failed_since(record, rollout) else ""
    traceback = record.failures[0].traceback if _failed_since(record, rollout) else ""
    message = f"no progress within progress_deadline_s = {limit_s:g} s{what}{last}"
    reason = Reason.DEPLOYMENT_UNAVAILABLE.value
    fail(draft, Failure(reason=reason, message=message, traceback=traceback, time=draft.now))


def _failed_since(record: DeploymentRecord, rollout: RolloutRecord) -> bool:
    return bool(record.failures) and record.failures[0].time >= rollout.started_at


def _waits_for_room(record: DeploymentRecord) -> bool:
    return any(one.type is ConditionType.PROGRESSING and one.reason == WAITING for one in record.conditions)
