"""What applications and deployments should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_core.model.actor import ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Payload
from serve_core.model.resources import Resources
from serve_core.model.share import Share


class OnFailure(StrEnum):
    """What becomes of a rollout that fails."""

    ROLLBACK = "rollback"
    """The last good revision becomes the target again."""
    HOLD = "hold"
    """Everything stays where it is, until somebody deploys, resumes or rolls back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """How one revision takes the place of another. Times are in seconds.

    Attributes:
        max_surge: Replicas beyond ``num_replicas`` that may be there; rounds up, and one whole gang is always allowed
            unless ``max_unavailable`` allows to go on without.
        max_unavailable: Replicas fewer than ``num_replicas`` that may take requests; rounds down.
        min_ready_s: How long a replica must be ready without a break before it counts.
        progress_deadline_s: Without progress for so long, the rollout has failed.
        pause_at: Share of replicas of the new revision at which the rollout pauses by itself; None: it does not.
        on_failure: What becomes of a rollout that fails.
        max_concurrent_starts: Replicas of the deployment that may start at once; 0 means no limit.
    """

    max_surge: Share = Share(25, percent=True)
    max_unavailable: Share = Share(0)
    min_ready_s: float = 0.0
    progress_deadline_s: float = 600.0
    pause_at: Share | None = None
    on_failure: OnFailure = OnFailure.ROLLBACK
    max_concurrent_starts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What a deployment should be. See ``serve_core.v1.DeploymentSpec`` for each field; times are in seconds.

    With ``autoscaling``, ``num_replicas`` is what it begins with.
    """

    name: str
    import_path: str
    init_arguments: Payload | None = None
    num_replicas: int = 1
    resources: Resources = Resources(cpus=1.0)
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    interpreter: str = ""
    max_ongoing_requests: int = 5
    max_queued_requests: int = 1000
    slot_ttl_s: float = 10.0
    slot_ttl_max_s: float = 60.0
    start_deadline_s: float = 300.0
    graceful_shutdown_timeout_s: float = 30.0
    health: HealthPolicy = HealthPolicy()
    user_config: Payload | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_start_failures: int = 5
    thread_count: int = 0
    rollout: RolloutPolicy = RolloutPolicy()
    gang: GangPolicy = GangPolicy()
    node_labels: Mapping[str, str] = field(default_factory=dict)
    bundles: tuple[Resources, ...] = ()
    actors: tuple[ActorSpec, ...] = ()
    autoscaling: AutoscalingPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationSpec:
    """What an application should be; ``ingress`` is the deployment that calls to the application go to."""

    name: str
    ingress: str
    deployments: tuple[DeploymentSpec, ...]
