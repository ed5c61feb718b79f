"""What applications and deployments should be, to and from ``serve_core.v1``, with every rule checked."""

from __future__ import annotations

from collections.abc import Sequence

from serve_core.model.actor import ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.v1 import controller_pb2
from serve_core.wire.actors import encode_actor_spec, read_actor_spec
from serve_core.wire.autoscaling import encode_autoscaling_policy, read_autoscaling_policy
from serve_core.wire.fields import encode_duration
from serve_core.wire.gang import encode_gang_policy, read_gang_policy
from serve_core.wire.payload import encode_payload
from serve_core.wire.policies import (
    encode_health_policy,
    encode_rollout_policy,
    read_health_policy,
    read_rollout_policy,
)
from serve_core.wire.reader import MAX_REQUESTS, Reader
from serve_core.wire.resources import encode_resources, read_resources

_DEFAULT = DeploymentSpec(name="default", import_path="default:default")
_MAX_REPLICAS = 10_000
_MAX_THREADS = 10_000


def encode_deployment_spec(spec: DeploymentSpec) -> controller_pb2.DeploymentSpec:
    """The message of a deployment's description, with every field set."""
    return controller_pb2.DeploymentSpec(
        name=spec.name,
        import_path=spec.import_path,
        init_arguments=None if spec.init_arguments is None else encode_payload(spec.init_arguments),
        num_replicas=spec.num_replicas,
        resources=encode_resources(spec.resources),
        env=spec.env,
        working_dir=spec.working_dir,
        interpreter=spec.interpreter,
        max_ongoing_requests=spec.max_ongoing_requests,
        max_queued_requests=spec.max_queued_requests,
        slot_ttl=encode_duration(spec.slot_ttl_s),
        slot_ttl_max=encode_duration(spec.slot_ttl_max_s),
        start_deadline=encode_duration(spec.start_deadline_s),
        graceful_shutdown_timeout=encode_duration(spec.graceful_shutdown_timeout_s),
        health=encode_health_policy(spec.health),
        user_config=None if spec.user_config is None else encode_payload(spec.user_config),
        metadata=spec.metadata,
        max_start_failures=spec.max_start_failures,
        thread_count=spec.thread_count,
        rollout=encode_rollout_policy(spec.rollout),
        gang=encode_gang_policy(spec.gang),
        node_labels=spec.node_labels,
        bundles=[encode_resources(bundle) for bundle in spec.bundles],
        actors=[encode_actor_spec(actor) for actor in spec.actors],
        autoscaling=encode_autoscaling_policy(spec.autoscaling),
    )


def decode_deployment_spec(message: controller_pb2.DeploymentSpec, *, path: str = "deployment") -> DeploymentSpec:
    """The deployment's description of a message; what is unset has the default of ``DeploymentSpec``.

    Args:
        message: What was received.
        path: Where it was, for the paths of violations.

    Raises:
        ConfigInvalidError: Lists everything that is wrong.
    """
    reader = Reader(path)
    spec = _read_deployment(reader, message)
    reader.finish(f"the deployment {message.name!r}")
    return spec


def encode_application_spec(spec: ApplicationSpec) -> controller_pb2.ApplicationSpec:
    """The message of an application's description."""
    return controller_pb2.ApplicationSpec(
        name=spec.name,
        ingress=spec.ingress,
        deployments=[encode_deployment_spec(deployment) for deployment in spec.deployments],
    )


def decode_application_spec(message: controller_pb2.ApplicationSpec, *, path: str = "application") -> ApplicationSpec:
    """The application's description of a message. The only deployment of an application is its ingress by default.

    Args:
        message: What was received.
        path: Where it was, for the paths of violations.

    Raises:
        ConfigInvalidError: Lists everything that is wrong, in the application and in all of its deployments.
    """
    reader = Reader(path)
    reader.name(message.name, "name")
    reader.require(bool(message.deployments), "deployments", "is empty; an application has at least one deployment")
    deployments = []
    seen: set[str] = set()
    for index, deployment in enumerate(message.deployments):
        inner = reader.inside(f"deployments[{index}]")
        deployments.append(_read_deployment(inner, deployment))
        inner.require(deployment.name not in seen, "name", f"{deployment.name!r} is taken by an earlier deployment")
        seen.add(deployment.name)
        reader.violations.extend(inner.violations)
    ingress = message.ingress or (message.deployments[0].name if len(seen) == 1 else "")
    if seen:
        known = ", ".join(sorted(seen))
        reader.require(ingress in seen, "ingress", f"{ingress!r} is none of the deployments ({known})")
    reader.finish(f"the application {message.name!r}")
    return ApplicationSpec(name=message.name, ingress=ingress, deployments=tuple(deployments))


def _read_deployment(reader: Reader, message: controller_pb2.DeploymentSpec) -> DeploymentSpec:
    reader.name(message.name, "name")
    reader.import_path(message.import_path, "import_path")
    for field in ("working_dir", "interpreter"):
        reader.require("\0" not in getattr(message, field), field, "has a NUL byte")
    slot_ttl_s = reader.seconds(message, "slot_ttl", _DEFAULT.slot_ttl_s)
    slot_ttl_max_s = reader.seconds(message, "slot_ttl_max", _DEFAULT.slot_ttl_max_s)
    reader.require(
        slot_ttl_s <= slot_ttl_max_s,
        "slot_ttl",
        f"{slot_ttl_s:g} s is longer than slot_ttl_max, {slot_ttl_max_s:g} s",
    )
    gang = read_gang_policy(reader, message.gang)
    autoscaling = _read_autoscaling(reader, message, size=gang.size)
    return DeploymentSpec(
        name=message.name,
        import_path=message.import_path,
        init_arguments=reader.payload(message, "init_arguments"),
        num_replicas=_read_num_replicas(reader, message, autoscaling, size=gang.size),
        resources=read_resources(reader, message.resources, "resources")
        if message.HasField("resources")
        else _DEFAULT.resources,
        env=reader.environment(message.env),
        working_dir=message.working_dir,
        interpreter=message.interpreter,
        max_ongoing_requests=reader.count(
            reader.optional(message, "max_ongoing_requests", _DEFAULT.max_ongoing_requests),
            "max_ongoing_requests",
            at_least=1,
            at_most=MAX_REQUESTS,
        ),
        max_queued_requests=reader.count(
            reader.optional(message, "max_queued_requests", _DEFAULT.max_queued_requests),
            "max_queued_requests",
            at_least=-1,
            at_most=MAX_REQUESTS,
        ),
        slot_ttl_s=slot_ttl_s,
        slot_ttl_max_s=slot_ttl_max_s,
        start_deadline_s=reader.seconds(message, "start_deadline", _DEFAULT.start_deadline_s),
        graceful_shutdown_timeout_s=reader.seconds(
            message, "graceful_shutdown_timeout", _DEFAULT.graceful_shutdown_timeout_s, zero_allowed=True
        ),
        health=read_health_policy(reader, message.health),
        user_config=reader.payload(message, "user_config"),
        metadata=dict(message.metadata),
        max_start_failures=reader.count(
            reader.optional(message, "max_start_failures", _DEFAULT.max_start_failures),
            "max_start_failures",
            at_least=1,
            at_most=MAX_REQUESTS,
        ),
        thread_count=reader.count(message.thread_count, "thread_count", at_least=0, at_most=_MAX_THREADS),
        rollout=read_rollout_policy(reader, message.rollout),
        gang=gang,
        node_labels=dict(message.node_labels),
        bundles=tuple(
            read_resources(reader, bundle, f"bundles[{index}]") for index, bundle in enumerate(message.bundles)
        ),
        actors=_read_actors(reader, message.actors),
        autoscaling=autoscaling,
    )


def _read_autoscaling(reader: Reader, message: controller_pb2.DeploymentSpec, *, size: int) -> AutoscalingPolicy | None:
    if not message.HasField("autoscaling"):
        return None
    return read_autoscaling_policy(reader, message.autoscaling, size=size)


def _read_num_replicas(
    reader: Reader, message: controller_pb2.DeploymentSpec, autoscaling: AutoscalingPolicy | None, *, size: int
) -> int:
    default = _DEFAULT.num_replicas if autoscaling is None else autoscaling.first_replicas(size=size)
    given = reader.optional(message, "num_replicas", default)
    return reader.count(given, "num_replicas", at_least=0, at_most=_MAX_REPLICAS)


def _read_actors(reader: Reader, messages: Sequence[controller_pb2.ActorSpec]) -> tuple[ActorSpec, ...]:
    actors = []
    for index, message in enumerate(messages):
        inner = reader.inside(f"actors[{index}]")
        actors.append(read_actor_spec(inner, message))
        reader.violations.extend(inner.violations)
    return tuple(actors)
