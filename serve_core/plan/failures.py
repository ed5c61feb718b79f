"""Keeps account of gangs that failed: how often in a row, when to try again, and when to give up.

A gang counts once, whatever number of its members failed.
"""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.plan.lifecycle import Trigger
from serve_core.plan.plan import Draft, Ended
from serve_core.plan.records import FAILURES_MAX, DeploymentRecord


def account(draft: Draft) -> None:
    """Enters every gang that failed in this plan into the deployment's record."""
    record = draft.deployment
    if any(
        gang.revision == record.target and gang.phase is ReplicaPhase.READY and gang.phase_since == draft.now
        for gang in draft.gangs.values()
    ):
        record = replace(record, start_failures=0)
    for ended in draft.ended:
        record = _enter(record, ended, draft)
    draft.deployment = record


def _enter(record: DeploymentRecord, ended: Ended, draft: Draft) -> DeploymentRecord:
    failures = (ended.failure, *record.failures)[:FAILURES_MAX]
    record = replace(record, failures=failures)
    if ended.phase is ReplicaPhase.READY:
        return _crashed(replace(record, impaired=True), ended, draft)
    if ended.trigger is Trigger.START_FAILED and ended.gang.revision == record.target:
        return _start_failed(record, ended.failure, draft)
    # Room that is lacking is waited for, and an older revision's trouble is not the target's: neither is given up.
    record = _setback(record, draft)
    return _retry_later(record, record.crashes, draft)


def _start_failed(record: DeploymentRecord, failure: Failure, draft: Draft) -> DeploymentRecord:
    record = replace(record, start_failures=record.start_failures + 1)
    record = _retry_later(record, record.start_failures, draft)
    given_up = record.start_failures >= record.target_spec.max_start_failures
    # What ran whole once is never given up: the trouble may be outside, and pass.
    if given_up and record.last_good != record.target and record.terminal is None:
        draft.reasons.append(f"{record.key} is given up after {record.start_failures} failed starts: {failure.message}")
        return replace(record, terminal=failure)
    return record


def _crashed(record: DeploymentRecord, ended: Ended, draft: Draft) -> DeploymentRecord:
    """A gang that ran for long is replaced at once; a crash soon after the start, too, unless it is one of a series."""
    if draft.now - ended.gang.phase_since >= draft.policy.stable_after_s or draft.now < record.retry_at:
        return record
    record = _setback(record, draft)
    return record if record.crashes == 1 else _retry_later(record, record.crashes - 1, draft)


def _setback(record: DeploymentRecord, draft: Draft) -> DeploymentRecord:
    """One more in a series, or the first of a new one if the last is long ago."""
    series_s = 2 * draft.policy.stable_after_s + draft.policy.backoff_max_s
    crashes = record.crashes + 1 if draft.now - record.crashed_at < series_s else 1
    return replace(record, crashes=crashes, crashed_at=draft.now)


def _retry_later(record: DeploymentRecord, failures: int, draft: Draft) -> DeploymentRecord:
    wait_s = draft.policy.backoff_s(failures, unit_random=draft.unit_random)
    return replace(record, retry_at=max(record.retry_at, draft.now + wait_s))
