"""Observed = fold(observed, event): how what happened changes what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import assert_never

from serve_core.model.ids import RouterId
from serve_core.plan.events import (
    ActorsSent,
    AttachLost,
    AttachOpened,
    BackendListed,
    DrainSent,
    Event,
    Forgotten,
    HeartbeatSeen,
    ListeningResumed,
    NodesSeen,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    ProcessExited,
    ProcessStarted,
    Reconfigured,
    Reported,
    RosterSent,
    RouterAcknowledged,
    RouterGone,
    RouterLost,
    RouterQueued,
    RouterSubscribed,
    StartRefused,
)
from serve_core.plan.observed import (
    Observed,
    PlacementObserved,
    PlacementState,
    ProcessState,
    ReplicaObserved,
    RouterObserved,
)
from serve_core.plan.persistent import with_changes

ROUTER_MEMORY_S = 60.0
"""A router that was lost for so long is forgotten when another subscribes."""

ReplicaEvent = (
    AttachOpened
    | Reported
    | HeartbeatSeen
    | AttachLost
    | ProcessStarted
    | StartRefused
    | ProcessExited
    | DrainSent
    | RosterSent
    | Reconfigured
    | ActorsSent
)
PlacementEvent = PlacementReserved | PlacementRefused | PlacementFreed
RouterEvent = RouterSubscribed | RouterAcknowledged | RouterQueued | RouterLost | RouterGone
ClusterEvent = BackendListed | NodesSeen | ListeningResumed | Forgotten


def fold(observed: Observed, event: Event) -> Observed:
    """What is seen after ``event``. Events about an earlier epoch of a replica change nothing."""
    match event:
        case PlacementReserved() | PlacementRefused() | PlacementFreed():
            placements = with_changes(observed.placements, {event.gang_id: _placement(event)})
            return replace(observed, placements=placements)
        case RouterSubscribed() | RouterAcknowledged() | RouterQueued() | RouterLost() | RouterGone():
            return replace(observed, routers=_routers(observed.routers, event))
        case BackendListed() | NodesSeen() | ListeningResumed() | Forgotten():
            return _fold_cluster(observed, event)
        case _:
            return _fold_replica(observed, event)


def fold_all(observed: Observed, events: Iterable[Event]) -> Observed:
    """What is seen after all of them, in order."""
    for event in events:
        observed = fold(observed, event)
    return observed


def _fold_replica(observed: Observed, event: ReplicaEvent) -> Observed:
    seen = observed.replicas.get(event.replica_id)
    if seen is not None and event.epoch < seen.epoch:
        return observed
    if seen is None or event.epoch > seen.epoch:
        seen = ReplicaObserved(epoch=event.epoch)
    return replace(observed, replicas=with_changes(observed.replicas, {event.replica_id: _replica(seen, event)}))


def _replica(seen: ReplicaObserved, event: ReplicaEvent) -> ReplicaObserved:
    match event:
        case AttachOpened() | Reported() | HeartbeatSeen() | AttachLost():
            return _heard(seen, event)
        case ProcessStarted(pid=pid):
            if seen.exit_code is not None:
                return seen  # The exit notice overtook the news of the start: one start of a replica ends once.
            return replace(seen, process=ProcessState.RUNNING, pid=pid, start_failure=None)
        case StartRefused(failure=failure):
            return replace(seen, process=ProcessState.EXITED, start_failure=failure)
        case ProcessExited(exit_code=exit_code, now=now):
            detached_at = now if seen.attached else seen.detached_at
            return replace(
                seen, process=ProcessState.EXITED, exit_code=exit_code, attached=False, detached_at=detached_at
            )
        case DrainSent(hold=hold, now=now):
            return replace(seen, drain_sent_at=seen.drain_sent_at or now, drain_held=hold)
        case RosterSent(gang_epoch=gang_epoch):
            return replace(seen, roster_sent=gang_epoch)
        case Reconfigured(config=config):
            return replace(seen, config=config)
        case ActorsSent(actors=actors):
            return replace(seen, actors=actors)
        case _:
            assert_never(event)


def _heard(seen: ReplicaObserved, event: AttachOpened | Reported | HeartbeatSeen | AttachLost) -> ReplicaObserved:
    if seen.process is ProcessState.EXITED:
        # The exit notice overtook what the process said before.
        return replace(seen, report=event.report) if isinstance(event, Reported) else seen
    match event:
        case AttachOpened():
            return replace(
                seen,
                attached=True,
                pid=event.pid,
                process=ProcessState.RUNNING,
                report=event.report,
                heard_at=event.now,
                config=event.config,
                actors=(),
                roster_sent=0,
                drain_sent_at=0.0,
                drain_held=False,
            )
        case Reported(report=report, now=now):
            return replace(seen, report=report, heard_at=now)
        case HeartbeatSeen(load=load, drain_remaining_s=remaining_s, now=now):
            last = seen.report
            if last is not None and (load, remaining_s) != (last.load, last.drain_remaining_s):
                last = replace(last, load=load, drain_remaining_s=remaining_s)
            return replace(seen, report=last, heard_at=now)
        case AttachLost(now=now):
            return replace(seen, attached=False, detached_at=now)
        case _:
            assert_never(event)


def _placement(event: PlacementEvent) -> PlacementObserved:
    match event:
        case PlacementReserved():
            return PlacementObserved(state=PlacementState.HELD)
        case PlacementRefused(failure=failure):
            return PlacementObserved(state=PlacementState.REFUSED, failure=failure)
        case PlacementFreed():
            return PlacementObserved(state=PlacementState.FREED)
        case _:
            assert_never(event)


def _routers(routers: Mapping[RouterId, RouterObserved], event: RouterEvent) -> Mapping[RouterId, RouterObserved]:
    match event:
        case RouterSubscribed():
            long_lost = [
                router_id
                for router_id, router in routers.items()
                if not router.connected and event.now - router.lost_at >= ROUTER_MEMORY_S
            ]
            router = RouterObserved(
                router_id=event.router_id,
                address=event.address,
                http_address=event.http_address,
                acknowledged=event.acknowledged,
            )
            return with_changes(routers, {event.router_id: router}, long_lost)
        case RouterAcknowledged(router_id=router_id, acknowledged=acknowledged):
            if router_id not in routers:
                return routers
            return with_changes(routers, {router_id: replace(routers[router_id], acknowledged=acknowledged)})
        case RouterQueued(router_id=router_id, queued=queued):
            if router_id not in routers:
                return routers
            return with_changes(routers, {router_id: replace(routers[router_id], queued=queued)})
        case RouterLost(router_id=router_id, now=now):
            if router_id not in routers:
                return routers
            # What waited in it comes again through another, or not at all.
            lost = replace(routers[router_id], connected=False, lost_at=now, queued={})
            return with_changes(routers, {router_id: lost})
        case RouterGone(router_id=router_id):
            return with_changes(routers, {}, (router_id,))
        case _:
            assert_never(event)


def _fold_cluster(observed: Observed, event: ClusterEvent) -> Observed:
    match event:
        case BackendListed(now=now):
            return replace(observed, listed_at=now)
        case NodesSeen(nodes=nodes):
            return replace(observed, nodes={node.node_id: node for node in nodes})
        case ListeningResumed(now=now):
            return replace(observed, listening_since=max(observed.listening_since, now))
        case Forgotten(gang_id=gang_id, replica_ids=replica_ids):
            return replace(
                observed,
                replicas=with_changes(observed.replicas, {}, replica_ids),
                placements=with_changes(observed.placements, {}, (gang_id,)),
            )
        case _:
            assert_never(event)
