"""What the controller has seen, in memory only: replicas, placements, nodes and routers.

Nothing here is persisted; a new controller sees it anew from its backend's list and from the living, who re-attach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_core.model.actor import ActorEndpoint
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.plan.persistent import PersistentMap


class ProcessState(StrEnum):
    """What the backend said of a process."""

    UNKNOWN = "unknown"
    """Nothing yet: it may or may not run."""
    RUNNING = "running"
    EXITED = "exited"
    """It ran and has ended, or the backend has listed what runs and this was not there."""


class PlacementState(StrEnum):
    """What the backend said of a gang's placement."""

    UNKNOWN = "unknown"
    HELD = "held"
    REFUSED = "refused"
    FREED = "freed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaObserved:
    """One process of a replica.

    Attributes:
        epoch: Which start of the replica this is about.
        attached: Whether its stream to the controller is open.
        pid: Its process on its node; 0 until it is known.
        process: What the backend said of it.
        exit_code: How it ended, where that is known; negative for a signal.
        start_failure: Why the backend could not start it, if so.
        report: What it said of itself last, with the load of its last heartbeat.
        heard_at: When it was last heard of.
        detached_at: When its stream was lost, if it is not attached.
        config: The ``config_version`` of the settings that it was last given.
        actors: What it was told of its actors.
        roster_sent: The epoch of its gang of whose members it was told last on this stream; 0 if of none.
        drain_sent_at: When it was told to drain; 0 if it was not.
        drain_held: Whether it was told to wait for its gang before it ends.
    """

    epoch: int = 1
    attached: bool = False
    pid: int = 0
    process: ProcessState = ProcessState.UNKNOWN
    exit_code: int | None = None
    start_failure: Failure | None = None
    report: ReplicaReport | None = None
    heard_at: float = 0.0
    detached_at: float = 0.0
    config: str = ""
    actors: tuple[ActorEndpoint, ...] = ()
    roster_sent: int = 0
    drain_sent_at: float = 0.0
    drain_held: bool = False

    @property
    def load(self) -> Load:
        """What it holds, by its own last word; nothing once it has ended."""
        if self.report is None or self.process is ProcessState.EXITED:
            return Load()
        return self.report.load

    @property
    def phase(self) -> ReplicaPhase | None:
        """Where it says it is in its life; None if it has said nothing."""
        return self.report.phase if self.report is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementObserved:
    """A gang's placement."""

    state: PlacementState = PlacementState.UNKNOWN
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeObserved:
    """One node and what it offers; ``total.gpus`` is a whole number of GPUs, counted from 0."""

    node_id: NodeId
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    total: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterObserved:
    """One router. ``lost_at`` is when its stream broke; it may go on routing by its last table for a lease.

    ``queued`` is how many requests wait in it, by deployment; what is not named has none.
    """

    router_id: RouterId
    address: str = ""
    http_address: str = ""
    acknowledged: TableVersion | None = None
    queued: Mapping[DeploymentKey, int] = field(default_factory=dict)
    connected: bool = True
    lost_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that was seen.

    ``listening_since`` is when this controller began to listen, or last could not for a while: silence from before
    proves nothing. ``listed_at`` is when the backend's list was folded in; 0 before.
    """

    listening_since: float
    listed_at: float = 0.0
    replicas: Mapping[ReplicaId, ReplicaObserved] = field(default_factory=PersistentMap)
    placements: Mapping[GangId, PlacementObserved] = field(default_factory=PersistentMap)
    nodes: Mapping[NodeId, NodeObserved] = field(default_factory=dict)
    routers: Mapping[RouterId, RouterObserved] = field(default_factory=PersistentMap)

    def replica(self, replica_id: ReplicaId, *, epoch: int) -> ReplicaObserved:
        """What was seen of this start of a replica. When the backend has listed what runs, the unseen does not."""
        seen = self.replicas.get(replica_id)
        if seen is not None and seen.epoch == epoch:
            return seen
        return ReplicaObserved(epoch=epoch, process=ProcessState.EXITED if self.listed_at else ProcessState.UNKNOWN)

    def has_lost(self, node_id: NodeId) -> bool:
        """Whether a node is not there any more, nor what ran on it."""
        return bool(self.nodes) and node_id not in self.nodes

    def placement(self, gang_id: GangId) -> PlacementObserved:
        """What was seen of a gang's placement."""
        return self.placements.get(gang_id, PlacementObserved())
