"""What can happen, as the shells tell it. ``now`` is when, in seconds since the Unix epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_core.model.actor import ActorEndpoint
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaReport
from serve_core.plan.observed import NodeObserved


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOpened:
    """A replica said hello and was welcomed with the settings of this ``config_version``."""

    replica_id: ReplicaId
    epoch: int
    pid: int
    report: ReplicaReport
    config: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A replica said what it is now."""

    replica_id: ReplicaId
    epoch: int
    report: ReplicaReport
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSeen:
    """A replica lives. ``drain_remaining_s`` is set while it drains."""

    replica_id: ReplicaId
    epoch: int
    load: Load
    drain_remaining_s: float | None = None
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachLost:
    """A replica's stream ended. It may live on."""

    replica_id: ReplicaId
    epoch: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStarted:
    """A process runs: it was started, or was found when the backend was listed."""

    replica_id: ReplicaId
    epoch: int
    pid: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRefused:
    """A process could not be started; nothing runs."""

    replica_id: ReplicaId
    epoch: int
    failure: Failure
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExited:
    """A process has ended, or does not run. ``exit_code`` is None if unknown, negative for a signal."""

    replica_id: ReplicaId
    epoch: int
    exit_code: int | None
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementReserved:
    """A gang's reservation holds: it was granted, or was found when the backend was listed."""

    gang_id: GangId
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRefused:
    """The backend has no room for a gang, whatever the records say."""

    gang_id: GangId
    failure: Failure
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementFreed:
    """A gang holds nothing any more."""

    gang_id: GangId
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSent:
    """A replica was told to drain; with ``hold``, not to end before its gang has finished."""

    replica_id: ReplicaId
    epoch: int
    hold: bool = False
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterSent:
    """A replica was told who is in its gang, as of this epoch of it."""

    replica_id: ReplicaId
    epoch: int
    gang_epoch: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """A replica was sent the settings of this ``config_version``."""

    replica_id: ReplicaId
    epoch: int
    config: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorsSent:
    """A replica was told where its actors are."""

    replica_id: ReplicaId
    epoch: int
    actors: tuple[ActorEndpoint, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendListed:
    """The backend has told everything that runs and is reserved, by one event each before this one."""

    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesSeen:
    """All nodes, and what they offer."""

    nodes: tuple[NodeObserved, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningResumed:
    """The controller itself could not listen for a while (stopped, or starved): silence until now proves nothing."""

    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """A gang's record was deleted: what was seen of it can go."""

    gang_id: GangId
    replica_ids: tuple[ReplicaId, ...]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSubscribed:
    """A router opened its stream. ``acknowledged`` is the table that it routes by already, if it has one."""

    router_id: RouterId
    address: str
    http_address: str
    acknowledged: TableVersion | None
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAcknowledged:
    """A router routes by this table from now on."""

    router_id: RouterId
    acknowledged: TableVersion
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterQueued:
    """So many requests wait in a router, by deployment; for those that are not named, none do."""

    router_id: RouterId
    queued: Mapping[DeploymentKey, int]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLost:
    """A router's stream broke. It may go on routing by its last table."""

    router_id: RouterId
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterGone:
    """A router ended its stream in good order, or its lease after a broken one is over: it routes no more."""

    router_id: RouterId
    now: float


Event = (
    AttachOpened
    | Reported
    | HeartbeatSeen
    | AttachLost
    | ProcessStarted
    | StartRefused
    | ProcessExited
    | PlacementReserved
    | PlacementRefused
    | PlacementFreed
    | DrainSent
    | RosterSent
    | Reconfigured
    | ActorsSent
    | BackendListed
    | NodesSeen
    | ListeningResumed
    | Forgotten
    | RouterSubscribed
    | RouterAcknowledged
    | RouterQueued
    | RouterLost
    | RouterGone
)
"""Everything that can happen, for an exhaustive match."""
