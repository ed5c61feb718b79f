"""Keeps account of gangs that failed: how often in a row, when to try again, and when a revision is given up.

A gang counts once, whatever number of its members failed.
"""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.replica import ReplicaPhase
from serve_core.plan.lifecycle import Trigger
from serve_core.plan.plan import Draft, Ended
from serve_core.plan.record_parts import VacantPlace
from serve_core.plan.records import FAILURES_MAX, DeploymentRecord
from serve_core.plan.restarts import has_restarts_left, restarts_in_a_row
from serve_core.plan.rollback import fail


def account(draft: Draft) -> None:
    """Enters every gang that failed in this plan into the deployment's record."""
    record = draft.deployment
    came_up = {
        gang.revision
        for gang in draft.gangs.values()
        if gang.phase is ReplicaPhase.READY and gang.phase_since == draft.now
    }
    if record.target in came_up:
        draft.deployment = record = replace(record, start_failures=0)
    if record.last_good in came_up:  # That another revision comes up does not prove this one.
        draft.deployment = replace(record, unproven=False)
    for ended in draft.ended:
        _enter(draft, ended)
    _give_up(draft)


def _enter(draft: Draft, ended: Ended) -> None:
    record = draft.deployment
    record = replace(record, failures=(ended.failure, *record.failures)[:FAILURES_MAX])
    if ended.trigger is not Trigger.REPLACED:
        record = _vacated(record, ended, draft)
    draft.deployment = record
    if ended.phase is ReplicaPhase.READY or ended.gang.is_repaired:
        record = replace(record, impaired=True)
        draft.deployment = record if ended.trigger is Trigger.REPLACED else _crashed(record, ended, draft)
        _count_crash(draft, ended)
    elif ended.trigger is Trigger.START_FAILED and ended.gang.revision == record.target:
        _start_failed(draft, ended)
    else:
        # Room that is lacking is waited for, and an older revision's trouble is not the target's: neither is given up.
        record = _setback(record, draft)
        draft.deployment = _retry_later(record, record.crashes, ended, draft)


def _vacated(record: DeploymentRecord, ended: Ended, draft: Draft) -> DeploymentRecord:
    """The record with the place of a gang that failed: open for the next one, or given up."""
    gang = ended.gang
    if ended.trigger is Trigger.REFUSED or gang.revision != record.target:
        return record
    in_a_row = restarts_in_a_row(gang, draft.policy, now=draft.now) + 1
    if not has_restarts_left(record.target_spec.gang, in_a_row):
        return replace(record, given_up=record.given_up + 1, given_up_for=ended.failure)
    places = sorted((*record.vacant_places, VacantPlace(gang.restarts + 1, in_a_row)), reverse=True)
    return replace(record, vacant_places=tuple(places[: max(record.wanted // gang.size, 1)]))


def _give_up(draft: Draft) -> None:
    """When no gang of the target is tried any more, the target has failed, whatever it was before."""
    record, cause = draft.deployment, draft.deployment.given_up_for
    if cause is None or record.terminal is not None or record.given_up * record.target_spec.gang.size < record.wanted:
        return
    if draft.settled.count or draft.live(record.target):
        return
    fail(draft, cause)
    if draft.deployment == record:
        draft.deployment = replace(record, terminal=cause)


def _start_failed(draft: Draft, ended: Ended) -> None:
    record = replace(draft.deployment, start_failures=draft.deployment.start_failures + 1)
    record = draft.deployment = _retry_later(record, record.start_failures, ended, draft)
    if record.start_failures >= record.target_spec.max_start_failures:
        fail(draft, ended.failure)


def _count_crash(draft: Draft, ended: Ended) -> None:
    """A revision that does not stay up is as bad as one that does not come up, while it is not known to be good."""
    record = draft.deployment
    rollout = record.rollout
    if rollout is None or rollout.finished_at or ended.gang.revision != record.target:
        return
    rollout = replace(rollout, crashes=rollout.crashes + 1)
    draft.deployment = replace(record, rollout=rollout)
    if rollout.crashes >= record.target_spec.max_start_failures:
        fail(draft, ended.failure)


def _crashed(record: DeploymentRecord, ended: Ended, draft: Draft) -> DeploymentRecord:
    """A gang that ran for long is replaced at once; a crash soon after the start, too, unless it is one of a series."""
    retry_at = record.retry_at if ended.gang.revision == record.target else record.good_retry_at
    if draft.now - ended.gang.phase_since >= draft.policy.stable_after_s or draft.now < retry_at:
        return record
    record = _setback(record, draft)
    return record if record.crashes == 1 else _retry_later(record, record.crashes - 1, ended, draft)


def _setback(record: DeploymentRecord, draft: Draft) -> DeploymentRecord:
    """One more in a series, or the first of a new one if the last is long ago."""
    series_s = 2 * draft.policy.stable_after_s + draft.policy.backoff_max_s
    crashes = record.crashes + 1 if draft.now - record.crashed_at < series_s else 1
    return replace(record, crashes=crashes, crashed_at=draft.now)


def _retry_later(record: DeploymentRecord, failures: int, ended: Ended, draft: Draft) -> DeploymentRecord:
    """What serves is replaced without regard to how often the revision that is to take its place has failed."""
    retry_at = draft.now + draft.policy.backoff_s(failures, unit_random=draft.unit_random)
    if ended.gang.revision == record.target:
        return replace(record, retry_at=max(record.retry_at, retry_at))
    return replace(record, good_retry_at=max(record.good_retry_at, retry_at))
