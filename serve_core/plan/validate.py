"""What is wrong with a description: everything, with paths, not only the first thing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from serve_core.errors import FieldViolation
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import NAME_PATTERN
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.plan.placement import is_countable

NUM_REPLICAS_MAX = 10_000
"""More than one controller is meant for."""

SHARE_MAX = 1_000
"""The most that a surge can be, in percent of the replicas wanted."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_NAME_RULE = "must be a letter followed by at most 62 letters, digits, '_' or '-'"


def application_violations(spec: ApplicationSpec, *, path: str = "application") -> tuple[FieldViolation, ...]:
    """Everything wrong with an application's description, found at ``path``."""
    return tuple(_application(spec, path))


def _application(spec: ApplicationSpec, path: str) -> Iterator[FieldViolation]:
    if not NAME_PATTERN.fullmatch(spec.name):
        yield FieldViolation(f"{path}.name", f"{spec.name!r} {_NAME_RULE}")
    if not spec.deployments:
        yield FieldViolation(f"{path}.deployments", "must name at least one deployment")
    names = [deployment.name for deployment in spec.deployments]
    for index, deployment in enumerate(spec.deployments):
        where = f"{path}.deployments[{index}]"
        if deployment.name in names[:index]:
            first = names.index(deployment.name)
            yield FieldViolation(f"{where}.name", f"{deployment.name!r} is also the name of deployments[{first}]")
        yield from _deployment(deployment, where)
    if names and spec.ingress not in names:
        yield FieldViolation(f"{path}.ingress", f"{spec.ingress!r} is not one of the deployments: {', '.join(names)}")


def _deployment(spec: DeploymentSpec, path: str) -> Iterator[FieldViolation]:
    if not NAME_PATTERN.fullmatch(spec.name):
        yield FieldViolation(f"{path}.name", f"{spec.name!r} {_NAME_RULE}")
    if not _IMPORT_PATH.fullmatch(spec.import_path):
        yield FieldViolation(f"{path}.import_path", f"{spec.import_path!r} must be MODULE:ATTRIBUTE")
    yield from num_replicas_violations(spec.num_replicas, path=f"{path}.num_replicas")
    yield from _resources(spec.resources, f"{path}.resources")
    for name, value in spec.env.items():
        if not name or "=" in name or "\0" in name + value:
            yield FieldViolation(f"{path}.env", f"{name!r} cannot be an environment variable")
    yield from _counts(spec, path)
    yield from _times(spec, path)
    yield from _health(spec.health, f"{path}.health")
    yield from _rollout(spec.rollout, f"{path}.rollout")


def num_replicas_violations(num_replicas: int, *, path: str) -> Iterator[FieldViolation]:
    """What is wrong with a number of replicas."""
    if not 0 <= num_replicas <= NUM_REPLICAS_MAX:
        yield FieldViolation(path, f"{num_replicas} must be from 0 to {NUM_REPLICAS_MAX}")


def _counts(spec: DeploymentSpec, path: str) -> Iterator[FieldViolation]:
    for name, value, least in (
        ("max_ongoing_requests", spec.max_ongoing_requests, 1),
        ("max_queued_requests", spec.max_queued_requests, -1),
        ("max_start_failures", spec.max_start_failures, 1),
        ("thread_count", spec.thread_count, 0),
    ):
        if value < least:
            yield FieldViolation(f"{path}.{name}", f"{value} must be at least {least}")


def _times(spec: DeploymentSpec, path: str) -> Iterator[FieldViolation]:
    for name, value in (
        ("slot_ttl_s", spec.slot_ttl_s),
        ("slot_ttl_max_s", spec.slot_ttl_max_s),
        ("start_deadline_s", spec.start_deadline_s),
    ):
        if not (math.isfinite(value) and value > 0):
            yield FieldViolation(f"{path}.{name}", f"{value:g} must be a time above 0 seconds")
    if not (math.isfinite(spec.graceful_shutdown_timeout_s) and spec.graceful_shutdown_timeout_s >= 0):
        yield FieldViolation(
            f"{path}.graceful_shutdown_timeout_s", f"{spec.graceful_shutdown_timeout_s:g} must be at least 0 seconds"
        )
    if spec.slot_ttl_s > spec.slot_ttl_max_s:
        yield FieldViolation(
            f"{path}.slot_ttl_s", f"{spec.slot_ttl_s:g} must not be above slot_ttl_max_s = {spec.slot_ttl_max_s:g}"
        )


def _health(health: HealthPolicy, path: str) -> Iterator[FieldViolation]:
    for name, value in (
        ("period_s", health.period_s),
        ("timeout_s", health.timeout_s),
        ("heartbeat_period_s", health.heartbeat_period_s),
        ("readiness_period_s", health.readiness_period_s),
    ):
        if not (math.isfinite(value) and value > 0):
            yield FieldViolation(f"{path}.{name}", f"{value:g} must be a time above 0 seconds")
    for name, count in (
        ("failure_threshold", health.failure_threshold),
        ("suspect_after_missed", health.suspect_after_missed),
        ("lost_after_missed", health.lost_after_missed),
    ):
        if count < 1:
            yield FieldViolation(f"{path}.{name}", f"{count} must be at least 1")
    if health.suspect_after_missed > health.lost_after_missed:
        yield FieldViolation(
            f"{path}.suspect_after_missed",
            f"{health.suspect_after_missed} must not be above lost_after_missed = {health.lost_after_missed}",
        )


def _rollout(rollout: RolloutPolicy, path: str) -> Iterator[FieldViolation]:
    shares = (
        ("max_surge", rollout.max_surge, 0, SHARE_MAX),
        ("max_unavailable", rollout.max_unavailable, 0, 100),
        ("pause_at", rollout.pause_at, 1, 100),
    )
    for name, share, least, percent_most in shares:
        most = percent_most if share is not None and share.percent else NUM_REPLICAS_MAX
        if share is not None and not least <= share.value <= most:
            yield FieldViolation(f"{path}.{name}", f"{share} must be from {least} to {most}{'%' * share.percent}")
    if not (math.isfinite(rollout.min_ready_s) and rollout.min_ready_s >= 0):
        yield FieldViolation(f"{path}.min_ready_s", f"{rollout.min_ready_s:g} must be at least 0 seconds")
    if not (math.isfinite(rollout.progress_deadline_s) and rollout.progress_deadline_s > rollout.min_ready_s):
        yield FieldViolation(
            f"{path}.progress_deadline_s",
            f"{rollout.progress_deadline_s:g} must be a time above 0 seconds, and above min_ready_s",
        )
    if rollout.max_concurrent_starts < 0:
        yield FieldViolation(f"{path}.max_concurrent_starts", f"{rollout.max_concurrent_starts} must be at least 0")


def _resources(resources: Resources, path: str) -> Iterator[FieldViolation]:
    amounts = [("cpus", resources.cpus), ("gpus", resources.gpus)]
    amounts += [(f"custom[{name!r}]", amount) for name, amount in resources.custom.items()]
    for name, amount in amounts:
        if not is_countable(amount):
            yield FieldViolation(f"{path}.{name}", f"{amount:g} must be at least 0, in steps of 0.0001")
    if resources.gpus > 1 and not float(resources.gpus).is_integer():
        yield FieldViolation(f"{path}.gpus", f"{resources.gpus:g} must be a whole number, or one fraction below 1")
    if resources.memory_bytes < 0:
        yield FieldViolation(f"{path}.memory_bytes", f"{resources.memory_bytes} must be at least 0")
