"""What applications and deployments should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.model.payload import Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a replica needs or a node offers: cores, GPUs, bytes, and anything else that is counted by name."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """When a replica counts as ill: ``failure_threshold`` failed checks in a row."""

    period_s: float = 10.0
    timeout_s: float = 30.0
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """What a deployment should be. See ``serve_core.v1.DeploymentSpec`` for each field; times are in seconds."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationSpec:
    """What an application should be; ``ingress`` is the deployment that calls to the application go to."""

    name: str
    ingress: str
    deployments: tuple[DeploymentSpec, ...]
