"""What operators see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from serve_core.model.ids import NodeId, RevisionId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, Replica, ReplicaPhase
from serve_core.model.resources import Resources


class ConditionType(StrEnum):
    """The summaries of a deployment."""

    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"


class DeploymentState(IntEnum):
    """A deployment in one word; the numbers of ``serve_core.v1.DeploymentState``."""

    UPDATING = 1
    HEALTHY = 2
    DEGRADED = 3
    DEPLOY_FAILED = 4
    DELETING = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One summary: whether it holds, why in a word and in a sentence, and since when (seconds, Unix)."""

    type: ConditionType
    status: bool
    reason: str
    message: str
    last_transition_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica; ``create_time`` is in seconds since the Unix epoch, ``pid`` is 0 until it is known."""

    replica: Replica
    phase: ReplicaPhase
    pid: int
    load: Load
    create_time: float
    failure: Failure | None = None
    in_rotation: bool = False
    suspicion: str = ""
    drain_remaining_s: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorStatus:
    """One deployment actor. Times are in seconds since the Unix epoch.

    Attributes:
        name: Its name.
        revision: The revision whose it is; None if revisions share it.
        incarnation: Which life of it this is; 0 before the first.
        replica: The process that runs it, or the last one that did; None before the first.
        phase: Where that is in its life.
        pid: Its process id; 0 until it is known.
        restarts: How often it was started again after it was ready.
        start_failures: Failures in a row.
        failure: Why it ended last.
        snapshot_time: When its last stored snapshot was taken; None if there is none.
        snapshot_bytes: The size of that.
        snapshot_incarnation: The life that gave it.
    """

    name: str
    revision: RevisionId | None
    incarnation: int
    replica: Replica | None = None
    phase: ReplicaPhase | None = None
    pid: int = 0
    restarts: int = 0
    start_failures: int = 0
    failure: Failure | None = None
    snapshot_time: float | None = None
    snapshot_bytes: int = 0
    snapshot_incarnation: int = 0


class RolloutPhase(IntEnum):
    """Where a rollout is; the numbers of ``serve_core.v1.RolloutPhase``."""

    PROGRESSING = 1
    PAUSED = 2
    WAITING = 3
    COMPLETE = 4
    ROLLING_BACK = 5
    ROLLED_BACK = 6
    FAILED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus:
    """A deployment's newest change of revision. See ``serve_core.v1.RolloutStatus`` for each field."""

    phase: RolloutPhase
    from_revision: RevisionId | None
    to_revision: RevisionId
    updated_available: int
    waiting_for: str = ""
    failed_revision: RevisionId | None = None
    failure: Failure | None = None
    progress_deadline_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingStatus:
    """Between which numbers of replicas a deployment scales by itself. See ``serve_core.v1.AutoscalingStatus``."""

    min_replicas: int
    max_replicas: int
    target_ongoing_requests: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentStatus:
    """One deployment. See ``serve_core.v1.DeploymentStatus`` for each field."""

    name: str
    revision: RevisionId
    state: DeploymentState
    message: str
    num_replicas: int
    ready_replicas: int
    updated_replicas: int
    start_failures: int
    conditions: tuple[Condition, ...]
    replicas: tuple[ReplicaStatus, ...]
    failures: tuple[Failure, ...] = ()
    paused: bool = False
    revisions: tuple[RevisionId, ...] = ()
    rollout: RolloutStatus | None = None
    last_good_revision: RevisionId | None = None
    environment_differences: tuple[str, ...] = ()
    actors: tuple[ActorStatus, ...] = ()
    queued_requests: int = 0
    autoscaling: AutoscalingStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationStatus:
    """One application."""

    name: str
    generation: int
    observed_generation: int
    ingress: str
    deployments: tuple[DeploymentStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    """One live router and the table version that it routes by."""

    router_id: RouterId
    address: str
    http_address: str
    acknowledged_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node: what it offers and what placements on it hold.

    ``drain_deadline_time`` is in seconds since the Unix epoch; None if it is not drained, or for ever.
    """

    node_id: NodeId
    zone: str
    total: Resources
    used: Resources
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    drain_deadline_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """Everything."""

    applications: tuple[ApplicationStatus, ...]
    routers: tuple[RouterStatus, ...]
    nodes: tuple[NodeStatus, ...]
    table_version: int
    table_epoch: str
    pid: int
    version: str
