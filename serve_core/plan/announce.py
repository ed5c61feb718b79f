"""What operators want to know of a plan, as events. Each follows from how the records change, so it is told once.

Reasons are words that scripts may look for; what they mean is in ``serve-core events``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from serve_core.model.event import Event
from serve_core.model.ids import GangId, RevisionId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.status import ConditionType
from serve_core.plan.announce_actors import actor_life, actors_given_up
from serve_core.plan.conditions import EXHAUSTED, WAITING
from serve_core.plan.fieldchanges import field_changes
from serve_core.plan.record_parts import RolloutRecord
from serve_core.plan.records import DeploymentRecord, GangRecord


def events(
    before: DeploymentRecord,
    after: DeploymentRecord,
    gangs_before: Mapping[GangId, GangRecord],
    gangs_after: Mapping[GangId, GangRecord],
    *,
    forget: bool,
    now: float,
) -> tuple[Event, ...]:
    """The events of a plan. ``gangs_after`` still holds those that are GONE."""
    say = _Say(after, now)
    told: list[Event] = []
    told += _scaled(say, before, after)
    told += _rollout(say, before, after)
    told += _held_up(say, before, after)
    told += _given_up(say, before, after)
    for gang_id, gang in gangs_after.items():
        known = gangs_before.get(gang_id)
        told += _gang(say, known, gang) if gang.actor is None else actor_life(say, known, gang, record=after)
    told += actors_given_up(say, before, after)
    if _reason(after) == "Deleting" != _reason(before):
        told.append(say("Deleting", "it is removed: its replicas finish, and end"))
    if forget:
        told.append(say("Deleted", "it is removed"))
    return tuple(told)


def changed_in_place(before: DeploymentRecord, after: DeploymentRecord, *, now: float) -> Iterator[Event]:
    """The event of a deploy that changes settings and restarts nothing. That another number is wanted is told elsewhere."""
    if before.deleting or before.terminal is not None or before.target != after.target:
        return
    old = replace(before.target_spec, num_replicas=after.target_spec.num_replicas)
    changes = field_changes(old, after.target_spec)
    if changes:
        texts = (f"{one.field}: {one.old_value or 'none'} -> {one.new_value or 'none'}" for one in changes)
        yield _Say(after, now)("ChangedInPlace", f"without a restart: {'; '.join(texts)}")


class _Say:
    """Makes the events of one plan for one deployment."""

    def __init__(self, record: DeploymentRecord, now: float) -> None:
        self._key = record.key
        self._now = now

    def __call__(self, reason: str, message: str, *, subject: str = "", warning: bool = False) -> Event:
        return Event(key=self._key, time=self._now, reason=reason, message=message, subject=subject, warning=warning)


def _scaled(say: _Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    old, new = before.observed_replicas, after.num_replicas
    if old is not None and old != new and not after.deleting:
        why = f"; {after.scaled_for}" if after.scaled_for else ""
        yield say("ScaledUp" if new > old else "ScaledDown", f"from {old} to {new} replicas{why}")


def _rollout(say: _Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    old, new = before.rollout, after.rollout
    if new is None or new == old:
        return
    if old is None or (old.to_revision, old.started_at) != (new.to_revision, new.started_at):
        yield from _begun(say, old, new)
    else:
        if new.paused != old.paused:
            yield _paused(say, after, new)
        if new.failure is not None and old.failure is None:
            yield _failed(say, new, new.failure, "it stays where it is")
    if new.finished_at and not (old is not None and old.finished_at and old.started_at == new.started_at):
        if new.failed_revision is not None:
            yield say("RolledBack", f"revision {new.to_revision} runs whole again, {new.failed_revision} is gone")
        else:
            yield say("RolloutComplete", f"revision {new.to_revision} runs whole")


def _begun(say: _Say, old: RolloutRecord | None, new: RolloutRecord) -> Iterator[Event]:
    if new.failure is not None:
        yield _failed(say, new, new.failure, f"revision {new.to_revision} is put back")
        return
    if old is not None and not old.finished_at and old.failure is None:
        yield say("Superseded", f"the change to revision {old.to_revision} is given up for {new.to_revision}")
    yield say("RolloutStarted", f"{_name(new.from_revision)} -> {new.to_revision}")
    if new.paused and new.from_revision is not None:
        yield say("RolloutPaused", "it is held from the start, as it was paused before")


def _name(revision: RevisionId | None) -> str:
    return revision if revision is not None else "nothing"


def _paused(say: _Say, record: DeploymentRecord, new: RolloutRecord) -> Event:
    counts = f"{new.available} of {record.num_replicas} replicas of revision {new.to_revision} are available"
    if not new.paused:
        return say("RolloutResumed", f"it goes on; {counts}")
    why = f"pause_at = {record.target_spec.rollout.pause_at} is reached" if new.paused_by_share else "it is held"
    return say("RolloutPaused", f"{why}; {counts}")


def _failed(say: _Say, rollout: RolloutRecord, failure: Failure, then: str) -> Event:
    return say("RolloutFailed", f"revision {rollout.failed_revision} failed, {then}: {failure.message}", warning=True)


def _given_up(say: _Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    if after.given_up > before.given_up and after.given_up_for is not None:
        limit, why = after.target_spec.gang.max_restarts, after.given_up_for.message
        message = f"a gang is not replaced any more after max_restarts = {limit} restarts in a row: {why}"
        yield say(EXHAUSTED, message, warning=True)


def _held_up(say: _Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    if _reason(after) == WAITING != _reason(before):
        message = next(one.message for one in after.conditions if one.type is ConditionType.PROGRESSING)
        yield say("WaitingForResources", message, warning=True)


def _reason(record: DeploymentRecord) -> str:
    """Why a deployment changes or does not, in a word."""
    return next((one.reason for one in record.conditions if one.type is ConditionType.PROGRESSING), "")


def _gang(say: _Say, before: GangRecord | None, after: GangRecord) -> Iterator[Event]:
    gang_id = after.gang_id
    if before is None:
        nodes = ", ".join(sorted({member.node_id for member in after.members}))
        again = f", the {after.restarts}. time that it is started again" if after.restarts else ""
        yield say("GangCreated", f"for revision {after.revision}, on {nodes}{again}", subject=gang_id)
        return
    if after.failure is not None and before.failure is None:
        reason = f"{before.phase.name}: {after.failure.message}"
        yield say("GangFailed", reason, subject=gang_id, warning=True)
    if after.phase is not before.phase:
        yield from _moved(say, before, after)
    yield from _rotated(say, before, after)


def _moved(say: _Say, before: GangRecord, after: GangRecord) -> Iterator[Event]:
    took_s = after.phase_since - before.phase_since
    if after.repaired is not None and after.repaired is not before.repaired:
        again = ", ".join(f"rank {one.rank}" for one in after.members if one.phase is not ReplicaPhase.READY)
        message = f"{again} is started again in epoch {after.epoch}, the others stay: {after.repaired.message}"
        yield say("MemberReplaced", message, subject=after.gang_id, warning=True)
    elif after.phase is ReplicaPhase.READY:
        yield say("GangReady", f"it runs revision {after.revision}, after {took_s:.1f} s", subject=after.gang_id)
    elif after.failure is None and (after.phase is ReplicaPhase.DRAINING or before.phase is ReplicaPhase.READY):
        yield say("GangDraining", "it is not wanted any more", subject=after.gang_id)
    elif after.phase is ReplicaPhase.DRAINING:
        why = "it is ill" if after.size == 1 else "its members finish what they have"
        yield say("GangDraining", why, subject=after.gang_id)
    elif after.phase is ReplicaPhase.GONE:
        yield say("GangGone", "its processes have ended, and what it held is free", subject=after.gang_id)


def _rotated(say: _Say, before: GangRecord, after: GangRecord) -> Iterator[Event]:
    if after.phase is not ReplicaPhase.READY or after.out_of_rotation == before.out_of_rotation:
        return
    if after.out_of_rotation:
        reason = "ReplicaSuspect" if "heartbeats" in after.out_of_rotation else "ReplicaNotReady"
        yield say(reason, after.out_of_rotation, subject=after.gang_id, warning=True)
    else:
        yield say("ReplicaBack", "it is in rotation again", subject=after.gang_id)
