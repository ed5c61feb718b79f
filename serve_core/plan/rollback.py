"""What becomes of a change of revision that has failed."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.replica import Failure
from serve_core.model.spec import OnFailure
from serve_core.plan.plan import Draft
from serve_core.plan.record_parts import RolloutRecord
from serve_core.plan.records import DeploymentRecord, replicas_in


def fail(draft: Draft, failure: Failure) -> None:
    """Ends a change: the last good revision is the target again, or all stays where it is.

    What ran whole once is never given up: the trouble may be outside, and pass.
    """
    record = draft.deployment
    if record.terminal is not None or (record.last_good == record.target and not record.unproven):
        return
    if record.unproven:
        record = replace(record, last_good=None, unproven=False)
    draft.reasons.append(f"revision {record.target} of {record.key} has failed: {failure.message}")
    if record.last_good is not None and record.target_spec.rollout.on_failure is OnFailure.ROLLBACK:
        served = served_so_far(draft, record.rollout)
        draft.deployment = _rolled_back(record, failure, served=served, now=draft.now)
        return
    rollout = record.rollout
    if rollout is not None:
        rollout = replace(rollout, failed_revision=record.target, failure=failure, finished_at=0.0)
    draft.deployment = replace(record, terminal=failure, rollout=rollout)


def served_so_far(draft: Draft, rollout: RolloutRecord | None) -> int:
    """What must go on serving when a change ends before its end: what it had to keep, and what it has brought."""
    serving = replicas_in(gang for gang in draft.gangs.values() if gang.serves)
    return max(serving, rollout.served or 0) if rollout is not None else serving


def _rolled_back(record: DeploymentRecord, failure: Failure, *, served: int, now: float) -> DeploymentRecord:
    """Its backoff was the failed revision's, and so was its automatic pause."""
    good, rollout = record.last_good, record.rollout
    if good is None:
        return record
    return replace(
        record,
        target=good,
        paused=record.paused and not (rollout is not None and rollout.paused_by_share),
        start_failures=0,
        crashes=0,
        crashed_at=0.0,
        retry_at=record.good_retry_at,
        good_retry_at=0.0,
        vacant_places=(),
        given_up=0,
        given_up_for=None,
        rollout=RolloutRecord(
            from_revision=record.target,
            to_revision=good,
            started_at=now,
            served=served,
            progress_at=now,
            failed_revision=record.target,
            failure=failure,
        ),
    )
