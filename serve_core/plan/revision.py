"""Which changes of a spec make a new revision, and which are taken in place."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from serve_core.model.actor import ActorSpec
from serve_core.model.gang import GangPolicy, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import RevisionId
from serve_core.model.payload import Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.once import OncePerSpec

_NO_GANG = [1, Strategy.PACK, []]


def revision_id(spec: DeploymentSpec) -> RevisionId:
    """Names what must restart to change: the same content has the same id."""
    content: dict[str, Any] = {
        "import_path": spec.import_path,
        "init_arguments": _payload(spec.init_arguments),
        "resources": _resources(spec.resources),
        "env": dict(spec.env),
        "working_dir": spec.working_dir,
        "interpreter": spec.interpreter,
        "thread_count": spec.thread_count,
    }
    # Left out where unused: what was deployed before these were known keeps its id, and does not restart for nothing.
    added = {
        "gang": _gang(spec.gang),
        "node_labels": dict(spec.node_labels),
        "bundles": [_resources(bundle) for bundle in spec.bundles],
        "actors": {actor.name: _actor(actor) for actor in spec.actors},
    }
    return RevisionId(_digest(content | {name: value for name, value in added.items() if value}))


def actor_version(spec: DeploymentSpec, actor: ActorSpec) -> str:
    """Names what an actor runs: its own description, and what it has of its deployment's. The same has the same name."""
    return _digest(
        {
            **_actor(actor),
            "env": {**spec.env, **actor.env},
            "working_dir": spec.working_dir,
            "interpreter": spec.interpreter,
        }
    )


def config_version(spec: DeploymentSpec) -> str:
    """Names what a running replica takes in place: the same content has the same version."""
    return _config_versions(spec)


def _config_version(spec: DeploymentSpec) -> str:
    return _digest(
        {
            "user_config": _payload(spec.user_config),
            "max_ongoing_requests": spec.max_ongoing_requests,
            "slot_ttl_s": spec.slot_ttl_s,
            "slot_ttl_max_s": spec.slot_ttl_max_s,
            "graceful_shutdown_timeout_s": spec.graceful_shutdown_timeout_s,
            "health": _health(spec.health),
            "metadata": dict(spec.metadata),
        }
    )


def _resources(resources: Resources) -> list[Any]:
    return [resources.cpus, resources.gpus, resources.memory_bytes, dict(resources.custom)]


def _health(health: HealthPolicy) -> list[Any]:
    return [
        health.period_s,
        health.timeout_s,
        health.failure_threshold,
        health.heartbeat_period_s,
        health.suspect_after_missed,
        health.lost_after_missed,
        health.readiness_period_s,
    ]


def _gang(gang: GangPolicy) -> list[Any] | None:
    """What members are started with. How a gang is routed to, watched and restarted changes without a restart."""
    settled = [gang.size, gang.placement, list(gang.roles)]
    return None if settled == _NO_GANG else settled


def _actor(actor: ActorSpec) -> dict[str, Any]:
    return {
        "import_path": actor.import_path,
        "init_arguments": _payload(actor.init_arguments),
        "resources": _resources(actor.resources),
        "env": dict(actor.env),
        "max_concurrency": actor.max_concurrency,
        "health": _health(actor.health),
        "start_deadline_s": actor.start_deadline_s,
        "max_restarts": actor.max_restarts,
        "on_failure": actor.on_failure,
        "snapshot_interval_s": actor.snapshot_interval_s,
        "shared": actor.shared,
    }


def _payload(payload: Payload | None) -> list[Any] | None:
    return None if payload is None else [int(payload.encoding), payload.data.hex(), payload.type_name]


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_config_versions = OncePerSpec(_config_version)
