"""What the controller persists: what is wanted, and what it intends. Never what can be observed.

Times are in seconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec, Resources
from serve_core.model.status import Condition

REVISIONS_MAX = 10
"""Revisions of a deployment that are kept to go back to."""

FAILURES_MAX = 10
"""Failures of a deployment that are kept for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """One life of a store. ``epoch`` names it; ``table_version`` is at least the newest that any router was given."""

    epoch: str
    table_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord:
    """An application as it is wanted. ``generation`` is raised by every change that an operator makes to it."""

    name: str
    ingress: str
    generation: int
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """What gangs of this revision run. The part of ``spec`` that changes in place is the newest."""

    revision: RevisionId
    spec: DeploymentSpec
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """A deployment as it is wanted, and what its planner must remember across a restart.

    Attributes:
        key: Which deployment.
        generation: The application's generation that changed it last.
        observed_generation: The last generation that was planned for.
        target: The revision that is wanted; always one of ``revisions``.
        last_good: The revision that last ran whole; None before the first one did. It serves while the target comes
            up, and stays when the target fails.
        num_replicas: Replicas wanted.
        revisions: What can be run, newest first.
        paused: Holds a change of revision where it is.
        deleting: Drains everything, then forgets.
        start_failures: Starts of the target revision that failed in a row.
        crashes: Gangs in a row that ended soon after they were ready, or found no place.
        crashed_at: When the last of those did.
        retry_at: No gang is created before this.
        impaired: Whether a gang that served was lost, and the number wanted was not reached again since.
        terminal: Why the target revision was given up, if it was.
        failures: What went wrong last, newest first.
        conditions: Summaries, with the time at which each last changed.
    """

    key: DeploymentKey
    generation: int
    observed_generation: int = 0
    target: RevisionId
    last_good: RevisionId | None = None
    num_replicas: int
    revisions: tuple[RevisionRecord, ...]
    paused: bool = False
    deleting: bool = False
    start_failures: int = 0
    crashes: int = 0
    crashed_at: float = 0.0
    retry_at: float = 0.0
    impaired: bool = False
    terminal: Failure | None = None
    failures: tuple[Failure, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def revision(self, revision: RevisionId) -> RevisionRecord | None:
        """The kept revision of this id, or None."""
        return next((kept for kept in self.revisions if kept.revision == revision), None)

    @property
    def target_spec(self) -> DeploymentSpec:
        """What the target revision runs."""
        return next(kept.spec for kept in self.revisions if kept.revision == self.target)


@dataclass(frozen=True, slots=True)
class GpuShare:
    """A part of one GPU of a node: all of it (1.0) or a fraction."""

    index: int
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one member holds on its node."""

    node_id: NodeId
    resources: Resources
    gpus: tuple[GpuShare, ...] = ()

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """The GPUs that the member may see, for ``CUDA_VISIBLE_DEVICES``."""
        return tuple(share.index for share in self.gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """One replica of a gang. ``epoch`` is raised at each start under the same id."""

    replica_id: ReplicaId
    rank: int
    epoch: int = 1
    phase: ReplicaPhase
    phase_since: float
    bundle: Bundle

    @property
    def node_id(self) -> NodeId:
        """The node it is placed on."""
        return self.bundle.node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRecord:
    """Replicas that are placed, started, drained and replaced together; one, unless configured otherwise.

    The members are in the phase of their gang, but for those that are ready before their gang is. ``failure`` is why
    the gang ends, if it failed.
    """

    gang_id: GangId
    key: DeploymentKey
    revision: RevisionId
    phase: ReplicaPhase
    phase_since: float
    created_at: float
    epoch: int = 1
    members: tuple[MemberRecord, ...]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Everything that is persisted, as one value."""

    applications: Mapping[str, ApplicationRecord] = field(default_factory=dict)
    deployments: Mapping[DeploymentKey, DeploymentRecord] = field(default_factory=dict)
    gangs: Mapping[GangId, GangRecord] = field(default_factory=dict)

    def gangs_of(self, key: DeploymentKey) -> tuple[GangRecord, ...]:
        """The gangs of a deployment, oldest first."""
        mine = [gang for gang in self.gangs.values() if gang.key == key]
        return tuple(sorted(mine, key=lambda gang: (gang.created_at, gang.gang_id)))

    def deployments_of(self, application: str) -> tuple[DeploymentRecord, ...]:
        """The deployments of an application, by name."""
        mine = [record for key, record in self.deployments.items() if key.application == application]
        return tuple(sorted(mine, key=lambda record: record.key))
