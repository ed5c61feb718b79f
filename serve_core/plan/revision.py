"""Which changes of a spec make a new revision, and which are taken in place."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from serve_core.model.ids import RevisionId
from serve_core.model.payload import Payload
from serve_core.model.spec import DeploymentSpec


def revision_id(spec: DeploymentSpec) -> RevisionId:
    """Names what must restart to change: the same content has the same id."""
    return RevisionId(
        _digest(
            {
                "import_path": spec.import_path,
                "init_arguments": _payload(spec.init_arguments),
                "resources": [
                    spec.resources.cpus,
                    spec.resources.gpus,
                    spec.resources.memory_bytes,
                    dict(spec.resources.custom),
                ],
                "env": dict(spec.env),
                "working_dir": spec.working_dir,
                "interpreter": spec.interpreter,
                "thread_count": spec.thread_count,
            }
        )
    )


def config_version(spec: DeploymentSpec) -> str:
    """Names what a running replica takes in place: the same content has the same version."""
    return _digest(
        {
            "user_config": _payload(spec.user_config),
            "max_ongoing_requests": spec.max_ongoing_requests,
            "slot_ttl_s": spec.slot_ttl_s,
            "slot_ttl_max_s": spec.slot_ttl_max_s,
            "graceful_shutdown_timeout_s": spec.graceful_shutdown_timeout_s,
            "health": [
                spec.health.period_s,
                spec.health.timeout_s,
                spec.health.failure_threshold,
                spec.health.heartbeat_period_s,
                spec.health.suspect_after_missed,
                spec.health.lost_after_missed,
                spec.health.readiness_period_s,
            ],
            "metadata": dict(spec.metadata),
        }
    )


def _payload(payload: Payload | None) -> list[Any] | None:
    return None if payload is None else [int(payload.encoding), payload.data.hex(), payload.type_name]


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
