"""Which deployments something matters to: only those are planned and published anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from serve_core.model.ids import DeploymentKey, GangId, gang_of
from serve_core.plan.events import (
    BackendListed,
    Event,
    Forgotten,
    HeartbeatSeen,
    ListeningResumed,
    NodesSeen,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    RouterAcknowledged,
    RouterGone,
    RouterLost,
    RouterQueued,
    RouterSubscribed,
)
from serve_core.plan.observed import Observed
from serve_core.plan.persistent import differences
from serve_core.plan.policy import Policy
from serve_core.plan.records import DeploymentRecord, Records
from serve_core.plan.suspicion import is_suspect

Touched: TypeAlias = Mapping[DeploymentKey, Collection[GangId] | None]
"""Deployments that something matters to, and to which of their gangs; None if it may be to all."""


def touched_by_event(event: Event, records: Records, before: Observed, *, policy: Policy) -> Iterable[DeploymentKey]:
    """The deployments that an event may matter to.

    What routers say matters to those whose part of the table it is about, which the table knows. A heartbeat is life as
    usual, and matters only if it ends a suspicion.

    Args:
        event: What happened.
        records: What is persisted.
        before: What was seen before it.
        policy: How long silence is taken for life.
    """
    match event:
        case Forgotten() | RouterSubscribed() | RouterAcknowledged() | RouterQueued() | RouterLost() | RouterGone():
            return ()
        case BackendListed() | NodesSeen() | ListeningResumed():
            return records.deployments
        case HeartbeatSeen():
            return _touched_by_heartbeat(event, records, before, policy)
        case PlacementReserved() | PlacementRefused() | PlacementFreed():
            gang = records.gangs.get(event.gang_id)
            return (gang.key,) if gang is not None else ()
        case _:
            owner = records.owner_of(event.replica_id)
            return (owner[0].key,) if owner is not None else ()


def gang_of_event(event: Event) -> GangId | None:
    """The gang that an event is about; None if it is about something else."""
    if isinstance(event, PlacementReserved | PlacementRefused | PlacementFreed):
        return event.gang_id
    replica_id = getattr(event, "replica_id", None)
    return gang_of(replica_id) if replica_id is not None else None


def is_unowned(event: Event, records: Records) -> bool:
    """Whether an event is about a process or a placement that nobody has a record of."""
    match event:
        case PlacementReserved() | PlacementRefused() | PlacementFreed():
            return event.gang_id not in records.gangs
        case _:
            replica_id = getattr(event, "replica_id", None)
            if replica_id is None:
                return False
            owner = records.owner_of(replica_id)
            return owner is None or owner[1].epoch != getattr(event, "epoch", 0)


def touched_by_records(before: Records, after: Records) -> Touched:
    """The deployments whose records, or what they share with their application, differ."""
    gangs: dict[DeploymentKey, dict[GangId, None]] = {}
    for gang in differences(before.gangs, after.gangs):
        record = gang.after or gang.before
        if record is not None:
            gangs.setdefault(record.key, {})[record.gang_id] = None
    for deployment in differences(before.deployments, after.deployments):
        gangs.setdefault(deployment.key, {})
    return {**gangs, **dict.fromkeys(_touched_whole(before, after))}


def _touched_whole(before: Records, after: Records) -> Iterator[DeploymentKey]:
    """Those in which that may matter to every gang."""
    for application in differences(before.applications, after.applications):
        old, new = application.before, application.after
        if old is None or new is None or old.ingress != new.ingress:
            yield from (record.key for record in after.deployments_of(application.key))
    for deployment in differences(before.deployments, after.deployments):
        one, other = deployment.before, deployment.after
        if one is None or other is None or _runs(one) != _runs(other):
            yield deployment.key


def _runs(record: DeploymentRecord) -> tuple[object, ...]:
    """What a deployment's record says of how its gangs run."""
    return record.target, record.revisions, record.deleting


def _touched_by_heartbeat(
    event: HeartbeatSeen, records: Records, before: Observed, policy: Policy
) -> tuple[DeploymentKey, ...]:
    owner = records.owner_of(event.replica_id)
    if owner is None or owner[1].epoch != event.epoch:
        return ()
    gang, member = owner
    seen = before.replica(member.replica_id, epoch=member.epoch)
    spec = records.deployments[gang.key].spec_of(gang)
    return (gang.key,) if is_suspect(seen, spec, before, now=event.now, policy=policy) else ()
