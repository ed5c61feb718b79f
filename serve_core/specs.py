"""From the options of one deployment to what the controller is told of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from serve_core.config.actor import ActorModel
from serve_core.config.gang import GangModel
from serve_core.config.options import check_options
from serve_core.config.process import HealthModel, NeedsModel
from serve_core.deployment_actor import DeploymentActor
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.locate import environment, import_path_of
from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy, GangRoute, OnMemberFailure, Strategy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Encoding
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec, OnFailure, RolloutPolicy
from serve_core.wire.codec import encode_arguments, encode_value


def make_spec(
    name: str, import_path: str, given: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> DeploymentSpec:
    """The description of one deployment; nothing in ``given``, ``args`` and ``kwargs`` is a bound deployment any more.

    Raises:
        ConfigInvalidError: Lists every option that is not valid, and arguments that cannot be sent.
    """
    options = check_options(_with_actors(given), where=f"deployment '{name}'")
    env = environment(import_path, options.env)
    return DeploymentSpec(
        name=name,
        import_path=import_path,
        init_arguments=encode_arguments(list(args), dict(kwargs)) if args or kwargs else None,
        num_replicas=options.first_replicas(),
        resources=_resources(options),
        env=env,
        working_dir=options.working_dir or os.getcwd(),
        interpreter=options.interpreter,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        slot_ttl_s=options.slot_ttl_s,
        slot_ttl_max_s=options.slot_ttl_max_s,
        start_deadline_s=options.start_deadline_s,
        graceful_shutdown_timeout_s=options.graceful_shutdown_timeout_s,
        health=_health(options),
        user_config=None if options.user_config is None else encode_value(options.user_config, like=Encoding.MSGPACK),
        metadata=options.metadata,
        max_start_failures=options.max_start_failures,
        thread_count=options.thread_count,
        rollout=RolloutPolicy(
            max_surge=options.max_surge,
            max_unavailable=options.max_unavailable,
            min_ready_s=options.min_ready_s,
            progress_deadline_s=options.progress_deadline_s,
            pause_at=options.pause_at,
            on_failure=OnFailure(options.on_failure),
            max_concurrent_starts=options.max_concurrent_starts,
        ),
        gang=_gang(options.gang),
        node_labels=options.node_labels,
        bundles=tuple(_resources(bundle) for bundle in options.bundles),
        actors=tuple(_actor(actor, env) for actor in options.actors),
        autoscaling=None if options.autoscaling is None else options.autoscaling.policy(size=options.gang.size),
    )


def _with_actors(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options with every ``DeploymentActor`` as a file would say it."""
    actors = given.get("actors")
    if not isinstance(actors, list | tuple):
        return given
    described: list[Any] = []
    violations: list[FieldViolation] = []
    for index, actor in enumerate(actors):
        try:
            described.append(_described(actor) if isinstance(actor, DeploymentActor) else actor)
        except ConfigInvalidError as error:
            violations += [FieldViolation(f"actors[{index}].{one.field}", one.description) for one in error.violations]
    if violations:
        raise ConfigInvalidError(violations, what="the actors")
    return {**given, "actors": described}


def _described(actor: DeploymentActor) -> dict[str, Any]:
    values = {field.name: getattr(actor, field.name) for field in dataclasses.fields(actor)}
    values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    target = values.pop("target")
    plain = getattr(target, "__serve_core_target__", target)
    return {**values, "import_path": plain if isinstance(plain, str) else import_path_of(plain)}


def _resources(needs: NeedsModel) -> Resources:
    return Resources(cpus=needs.cpus, gpus=needs.gpus, memory_bytes=needs.memory, custom=needs.resources)


def _health(health: HealthModel) -> HealthPolicy:
    return HealthPolicy(
        period_s=health.health_check_period_s,
        timeout_s=health.health_check_timeout_s,
        failure_threshold=health.health_check_failure_threshold,
        heartbeat_period_s=health.heartbeat_period_s,
        suspect_after_missed=health.suspect_after_missed,
        lost_after_missed=health.lost_after_missed,
        readiness_period_s=health.readiness_period_s,
    )


def _gang(gang: GangModel) -> GangPolicy:
    return GangPolicy(
        size=gang.size,
        placement=Strategy(gang.placement),
        on_member_failure=OnMemberFailure(gang.on_member_failure),
        start_deadline_s=gang.start_deadline_s,
        max_restarts=gang.max_restarts,
        route=GangRoute(gang.route),
        roles=tuple(gang.roles),
        abort_in_flight=gang.abort_in_flight,
    )


def _actor(actor: ActorModel, env: Mapping[str, str]) -> ActorSpec:
    """``env`` is that of the deployment."""
    given = actor.args or actor.kwargs
    return ActorSpec(
        name=actor.name,
        import_path=actor.import_path,
        init_arguments=encode_arguments(actor.args, actor.kwargs) if given else None,
        resources=_resources(actor),
        env=environment(actor.import_path, actor.env, beneath=env),
        max_concurrency=actor.max_concurrency,
        health=_health(actor),
        start_deadline_s=actor.start_deadline_s,
        max_restarts=actor.max_restarts,
        on_failure=ActorOnFailure(actor.on_failure),
        snapshot_interval_s=actor.snapshot_interval_s,
        shared=ActorSharing(actor.shared),
    )
