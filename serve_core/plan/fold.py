"""Observed = fold(observed, event): how what happened changes what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar, assert_never

from serve_core.model.ids import RouterId
from serve_core.plan.events import (
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
    RouterAcknowledged,
    RouterGone,
    RouterLost,
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
    | Reconfigured
)
PlacementEvent = PlacementReserved | PlacementRefused | PlacementFreed
RouterEvent = RouterSubscribed | RouterAcknowledged | RouterLost | RouterGone
ClusterEvent = BackendListed | NodesSeen | ListeningResumed | Forgotten

K = TypeVar("K")
V = TypeVar("V")


def fold(observed: Observed, event: Event) -> Observed:
    """What is seen after ``event``. Events about an earlier epoch of a replica change nothing."""
    match event:
        case PlacementReserved() | PlacementRefused() | PlacementFreed():
            placements = _with(observed.placements, event.gang_id, _placement(event))
            return replace(observed, placements=placements)
        case RouterSubscribed() | RouterAcknowledged() | RouterLost() | RouterGone():
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


def _with(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    return {**mapping, key: value}


def _fold_replica(observed: Observed, event: ReplicaEvent) -> Observed:
    seen = observed.replicas.get(event.replica_id)
    if seen is not None and event.epoch < seen.epoch:
        return observed
    if seen is None or event.epoch > seen.epoch:
        seen = ReplicaObserved(epoch=event.epoch)
    return replace(observed, replicas=_with(observed.replicas, event.replica_id, _replica(seen, event)))


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
        case DrainSent(now=now):
            return replace(seen, drain_sent_at=now)
        case Reconfigured(config=config):
            return replace(seen, config=config)
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
                drain_sent_at=0.0,
            )
        case Reported(report=report, now=now):
            return replace(seen, report=report, heard_at=now)
        case HeartbeatSeen(load=load, now=now):
            loaded = replace(seen.report, load=load) if seen.report is not None else None
            return replace(seen, report=loaded, heard_at=now)
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
            kept = {
                router_id: router
                for router_id, router in routers.items()
                if router.connected or event.now - router.lost_at < ROUTER_MEMORY_S
            }
            kept[event.router_id] = RouterObserved(
                router_id=event.router_id,
                address=event.address,
                http_address=event.http_address,
                acknowledged=event.acknowledged,
            )
            return kept
        case RouterAcknowledged(router_id=router_id, acknowledged=acknowledged):
            if router_id not in routers:
                return routers
            return _with(routers, router_id, replace(routers[router_id], acknowledged=acknowledged))
        case RouterLost(router_id=router_id, now=now):
            if router_id not in routers:
                return routers
            return _with(routers, router_id, replace(routers[router_id], connected=False, lost_at=now))
        case RouterGone(router_id=router_id):
            return {kept_id: router for kept_id, router in routers.items() if kept_id != router_id}
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
                replicas={key: seen for key, seen in observed.replicas.items() if key not in replica_ids},
                placements={key: seen for key, seen in observed.placements.items() if key != gang_id},
            )
        case _:
            assert_never(event)
