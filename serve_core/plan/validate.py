"""What is wrong with a description: everything, with paths, not only the first thing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from serve_core.errors import FieldViolation
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.plan.bounds import autoscaling_violations
from serve_core.plan.rules import (
    count_violations,
    health_violations,
    import_path_violations,
    label_violations,
    name_violations,
    resources_violations,
    seconds_violations,
)
from serve_core.plan.validate_actors import actors_violations
from serve_core.plan.validate_gang import (
    NUM_REPLICAS_MAX,
    gang_violations,
    member_environment_violations,
    num_replicas_violations,
)

SHARE_MAX = 1_000
"""The most that a surge can be, in percent of the replicas wanted."""

BUNDLES_MAX = 100
"""More than one replica is meant for."""


def application_violations(spec: ApplicationSpec, *, path: str = "application") -> tuple[FieldViolation, ...]:
    """Everything wrong with an application's description, found at ``path``."""
    return tuple(_application(spec, path))


def _application(spec: ApplicationSpec, path: str) -> Iterator[FieldViolation]:
    yield from name_violations(spec.name, f"{path}.name")
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
    yield from name_violations(spec.name, f"{path}.name")
    yield from import_path_violations(spec.import_path, f"{path}.import_path")
    yield from num_replicas_violations(spec.num_replicas, size=spec.gang.size, path=f"{path}.num_replicas")
    if spec.autoscaling is not None:
        yield from autoscaling_violations(
            spec.autoscaling, num_replicas=spec.num_replicas, size=spec.gang.size, path=f"{path}."
        )
    yield from resources_violations(spec.resources, f"{path}.resources")
    yield from member_environment_violations(spec.env, f"{path}.env", size=spec.gang.size)
    yield from _counts(spec, path)
    yield from _times(spec, path)
    yield from health_violations(spec.health, f"{path}.health")
    yield from _rollout(spec.rollout, f"{path}.rollout")
    yield from gang_violations(spec.gang, f"{path}.gang")
    yield from label_violations(spec.node_labels, f"{path}.node_labels")
    yield from _bundles(spec.bundles, f"{path}.bundles")
    yield from actors_violations(spec.actors, f"{path}.actors")


def _bundles(bundles: Sequence[Resources], path: str) -> Iterator[FieldViolation]:
    if len(bundles) > BUNDLES_MAX:
        yield FieldViolation(path, f"{len(bundles)} are more than {BUNDLES_MAX}")
    for index, bundle in enumerate(bundles):
        if bundle == Resources():
            yield FieldViolation(f"{path}[{index}]", "holds nothing")
        yield from resources_violations(bundle, f"{path}[{index}]")


def _counts(spec: DeploymentSpec, path: str) -> Iterator[FieldViolation]:
    return count_violations(
        path,
        (
            ("max_ongoing_requests", spec.max_ongoing_requests, 1),
            ("max_queued_requests", spec.max_queued_requests, -1),
            ("max_start_failures", spec.max_start_failures, 1),
            ("thread_count", spec.thread_count, 0),
        ),
    )


def _times(spec: DeploymentSpec, path: str) -> Iterator[FieldViolation]:
    yield from seconds_violations(
        path,
        (
            ("slot_ttl_s", spec.slot_ttl_s),
            ("slot_ttl_max_s", spec.slot_ttl_max_s),
            ("start_deadline_s", spec.start_deadline_s),
        ),
    )
    if not (math.isfinite(spec.graceful_shutdown_timeout_s) and spec.graceful_shutdown_timeout_s >= 0):
        yield FieldViolation(
            f"{path}.graceful_shutdown_timeout_s", f"{spec.graceful_shutdown_timeout_s:g} must be at least 0 seconds"
        )
    if spec.slot_ttl_s > spec.slot_ttl_max_s:
        yield FieldViolation(
            f"{path}.slot_ttl_s", f"{spec.slot_ttl_s:g} must not be above slot_ttl_max_s = {spec.slot_ttl_max_s:g}"
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
