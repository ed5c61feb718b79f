"""What applications and deployments should be, to and from ``serve_core.v1``, with every rule checked."""

from __future__ import annotations

import math

from serve_core.model.ids import NAME_PATTERN
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.fields import encode_duration
from serve_core.wire.payload import encode_payload
from serve_core.wire.policies import (
    encode_health_policy,
    encode_rollout_policy,
    read_health_policy,
    read_rollout_policy,
)
from serve_core.wire.reader import MAX_REQUESTS, Reader

_DEFAULT = DeploymentSpec(name="default", import_path="default:default")
_NAME_RULE = "must be a letter followed by up to 62 letters, digits, '_' or '-'"
_MAX_REPLICAS = 10_000
_MAX_THREADS = 10_000


def encode_resources(resources: Resources) -> types_pb2.Resources:
    """The message of resources."""
    return types_pb2.Resources(
        cpus=resources.cpus, gpus=resources.gpus, memory_bytes=resources.memory_bytes, custom=resources.custom
    )


def decode_resources(message: types_pb2.Resources) -> Resources:
    """The resources of a message."""
    return Resources(
        cpus=message.cpus, gpus=message.gpus, memory_bytes=message.memory_bytes, custom=dict(message.custom)
    )


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
    reader.require(bool(NAME_PATTERN.fullmatch(message.name)), "name", f"{message.name!r} {_NAME_RULE}")
    reader.require(bool(message.deployments), "deployments", "is empty; an application has at least one deployment")
    deployments = []
    seen: set[str] = set()
    for index, deployment in enumerate(message.deployments):
        inner = Reader(f"{path}.deployments[{index}]")
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
    reader.require(bool(NAME_PATTERN.fullmatch(message.name)), "name", f"{message.name!r} {_NAME_RULE}")
    reader.require(
        _is_import_path(message.import_path),
        "import_path",
        f"{message.import_path!r} must be MODULE:ATTRIBUTE, such as 'my_app.main:App'",
    )
    for field in ("working_dir", "interpreter"):
        reader.require("\0" not in getattr(message, field), field, "has a NUL byte")
    slot_ttl_s = reader.seconds(message, "slot_ttl", _DEFAULT.slot_ttl_s)
    slot_ttl_max_s = reader.seconds(message, "slot_ttl_max", _DEFAULT.slot_ttl_max_s)
    reader.require(
        slot_ttl_s <= slot_ttl_max_s,
        "slot_ttl",
        f"{slot_ttl_s:g} s is longer than slot_ttl_max, {slot_ttl_max_s:g} s",
    )
    return DeploymentSpec(
        name=message.name,
        import_path=message.import_path,
        init_arguments=reader.payload(message, "init_arguments"),
        num_replicas=reader.count(
            reader.optional(message, "num_replicas", _DEFAULT.num_replicas),
            "num_replicas",
            at_least=0,
            at_most=_MAX_REPLICAS,
        ),
        resources=_read_resources(reader, message),
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
    )


def _read_resources(reader: Reader, message: controller_pb2.DeploymentSpec) -> Resources:
    if not message.HasField("resources"):
        return _DEFAULT.resources
    resources = decode_resources(message.resources)
    for name, amount in {"cpus": resources.cpus, "gpus": resources.gpus}.items():
        reader.require(_is_amount(amount), f"resources.{name}", f"{amount:g} must be a number of 0 or more")
    for name, amount in resources.custom.items():
        reader.require(bool(name), "resources.custom", "has an empty name")
        reader.require(_is_amount(amount), f"resources.custom[{name!r}]", f"{amount:g} must be a number of 0 or more")
    gpus = resources.gpus
    reader.require(
        not (math.isfinite(gpus) and gpus > 1) or gpus.is_integer(),
        "resources.gpus",
        f"{gpus:g} is neither a whole number nor below 1",
    )
    return resources


def _is_amount(amount: float) -> bool:
    return math.isfinite(amount) and amount >= 0


def _is_import_path(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))
