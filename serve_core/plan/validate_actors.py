"""What is wrong with descriptions of deployment actors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from serve_core.errors import FieldViolation
from serve_core.model.actor import ActorOnFailure, ActorSpec
from serve_core.plan.rules import (
    count_violations,
    environment_violations,
    health_violations,
    import_path_violations,
    name_violations,
    resources_violations,
    seconds_violations,
)

ACTORS_MAX = 100
"""More than one deployment is meant for."""


def actors_violations(actors: Sequence[ActorSpec], path: str) -> Iterator[FieldViolation]:
    """Everything wrong with a deployment's actors."""
    if len(actors) > ACTORS_MAX:
        yield FieldViolation(path, f"{len(actors)} are more than {ACTORS_MAX}")
    names = [actor.name for actor in actors]
    for index, actor in enumerate(actors):
        where = f"{path}[{index}]"
        if actor.name in names[:index]:
            yield FieldViolation(
                f"{where}.name", f"{actor.name!r} is also the name of actors[{names.index(actor.name)}]"
            )
        yield from _actor(actor, where)


def _actor(actor: ActorSpec, path: str) -> Iterator[FieldViolation]:
    yield from name_violations(actor.name, f"{path}.name")
    yield from import_path_violations(actor.import_path, f"{path}.import_path")
    yield from resources_violations(actor.resources, f"{path}.resources")
    yield from environment_violations(actor.env, f"{path}.env")
    yield from health_violations(actor.health, f"{path}.health")
    counts = (("max_concurrency", actor.max_concurrency, 1), ("max_restarts", actor.max_restarts, 0))
    yield from count_violations(path, counts)
    yield from seconds_violations(path, (("start_deadline_s", actor.start_deadline_s),))
    interval_s = actor.snapshot_interval_s
    if not (math.isfinite(interval_s) and interval_s >= 0):
        yield FieldViolation(f"{path}.snapshot_interval_s", f"{interval_s:g} must be at least 0 seconds")
    elif interval_s and actor.on_failure is not ActorOnFailure.RESTART_FROM_SNAPSHOT:
        yield FieldViolation(
            f"{path}.snapshot_interval_s",
            f"{interval_s:g} is of no use with on_failure = {actor.on_failure}: nothing would start from the snapshots; "
            f"it goes with {ActorOnFailure.RESTART_FROM_SNAPSHOT}",
        )
