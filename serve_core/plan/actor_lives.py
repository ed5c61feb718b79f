"""Keeps account of the lives of actors: which serves, how one ended, and when an actor is given up."""

from __future__ import annotations

from dataclasses import replace

from serve_core.errors import Reason
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.lifecycle import LIVE, Trigger
from serve_core.plan.plan import Draft, Ended, in_order
from serve_core.plan.records import FAILURES_MAX, GangRecord
from serve_core.plan.remember import located
from serve_core.plan.rollback import fail


def account_actors(draft: Draft) -> None:
    """Enters what became of each actor's process into the deployment's record."""
    for gang in in_order(draft.actors.values()):
        record = draft.deployment.actor(gang.actor) if gang.actor is not None else None
        if record is None or record.gang_id != gang.gang_id:
            continue
        if gang.phase is ReplicaPhase.READY:
            _serves(draft, gang, record)
        elif gang.phase not in LIVE:
            draft.deployment = draft.deployment.with_actor(replace(record, gang_id=None, address="", suspicion=""))
    for ended in draft.actors_ended:
        _enter(draft, ended)


def _serves(draft: Draft, gang: GangRecord, record: ActorRecord) -> None:
    members = tuple(located(member, draft.observed) for member in gang.members)
    if members != gang.members:
        draft.save(replace(gang, members=members))
    endpoint = members[0].endpoint
    address = endpoint.address if endpoint is not None else ""
    if (record.address, record.suspicion) != (address, gang.out_of_rotation):
        record = replace(record, address=address, suspicion=gang.out_of_rotation)
    if not record.first_ready_at:
        record = replace(record, first_ready_at=draft.now)
        _note_progress(draft, record)
    if record.failures:
        calm_at = gang.phase_since + draft.policy.stable_after_s
        if draft.now >= calm_at:
            record = replace(record, failures=0)
        else:
            draft.wake_at(calm_at)
    draft.deployment = draft.deployment.with_actor(record)


def _note_progress(draft: Draft, record: ActorRecord) -> None:
    """A change of revision gets on when one of the actors that it waits for has come."""
    rollout = draft.deployment.rollout
    if (
        rollout is not None
        and not rollout.finished_at
        and record.key in draft.deployment.actor_keys(rollout.to_revision)
    ):
        draft.deployment = replace(draft.deployment, rollout=replace(rollout, progress_at=draft.now))


def _enter(draft: Draft, ended: Ended) -> None:
    key = ended.gang.actor
    record = draft.deployment.actor(key) if key is not None else None
    if record is None or record.incarnation != ended.gang.incarnation:
        return
    if ended.trigger is Trigger.REFUSED:
        # Room that is lacking is waited for, and is not the actor's fault.
        retry_at = draft.now + draft.policy.backoff_s(1, unit_random=draft.unit_random)
        draft.deployment = draft.deployment.with_actor(replace(record, retry_at=retry_at))
        return
    draft.deployment = replace(
        draft.deployment, failures=(ended.failure, *draft.deployment.failures)[:FAILURES_MAX]
    ).with_actor(_failed(draft, ended, record))
    _give_up_past_the_limit(draft, ended)


def _failed(draft: Draft, ended: Ended, record: ActorRecord) -> ActorRecord:
    """One that served for long begins anew at once, and one that was lost soon after, unless that is one of a series."""
    served = ended.phase is ReplicaPhase.READY
    calm = served and draft.now - ended.gang.phase_since >= draft.policy.stable_after_s
    failures = 1 if calm else record.failures + 1
    waits = failures - 1 if served else failures
    wait_s = draft.policy.backoff_s(waits, unit_random=draft.unit_random) if waits else 0.0
    return replace(
        record,
        failures=failures,
        restarts=record.restarts + served,
        retry_at=draft.now + wait_s,
        failure=ended.failure,
    )


def _give_up_past_the_limit(draft: Draft, ended: Ended) -> None:
    key = ended.gang.actor
    record = draft.deployment.actor(key) if key is not None else None
    limit = next((actor.max_restarts for actor in draft.spec(ended.gang).actors), 0)
    if record is None or record.failures <= limit:
        return
    failure = Failure(
        reason=Reason.DEPLOYMENT_ACTOR_FAILED.value,
        message=(
            f"actor {record.key.name} failed {record.failures} times in a row, more than max_restarts = {limit} "
            f"allows; last: {ended.failure.message}"
        ),
        traceback=ended.failure.traceback,
        time=draft.now,
    )
    failures = (failure, *draft.deployment.failures)[:FAILURES_MAX]
    draft.deployment = replace(draft.deployment, failures=failures).with_actor(replace(record, given_up=failure))
    if record.key in draft.deployment.actor_keys(draft.deployment.target):
        fail(draft, failure)
