"""Deployment actors, to and from ``serve_core.v1``: what they should be, where they are, and how they do."""

from __future__ import annotations

from collections.abc import Iterable

from serve_core.model.actor import ActorAssignment, ActorEndpoint, ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.ids import ReplicaId
from serve_core.model.status import ActorStatus
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.fields import decode_optional_time, encode_duration, encode_optional_time, optional_revision
from serve_core.wire.payload import encode_payload
from serve_core.wire.policies import encode_health_policy, read_health_policy
from serve_core.wire.reader import MAX_REQUESTS, Reader
from serve_core.wire.replica import (
    decode_failure,
    decode_phase,
    decode_replica,
    encode_failure,
    encode_phase,
    encode_replica,
)
from serve_core.wire.resources import encode_resources, read_resources

_DEFAULT = ActorSpec(name="default", import_path="default:default")
_ON_FAILURE = {
    ActorOnFailure.RESTART: controller_pb2.ACTOR_ON_FAILURE_RESTART,
    ActorOnFailure.RESTART_FROM_SNAPSHOT: controller_pb2.ACTOR_ON_FAILURE_RESTART_FROM_SNAPSHOT,
    ActorOnFailure.RESTART_REPLICAS: controller_pb2.ACTOR_ON_FAILURE_RESTART_REPLICAS,
}
_SHARED = {
    ActorSharing.REVISION: controller_pb2.ACTOR_SHARING_REVISION,
    ActorSharing.DEPLOYMENT: controller_pb2.ACTOR_SHARING_DEPLOYMENT,
}


def encode_actor_spec(spec: ActorSpec) -> controller_pb2.ActorSpec:
    """The message of an actor's description, with every field set."""
    return controller_pb2.ActorSpec(
        name=spec.name,
        import_path=spec.import_path,
        init_arguments=None if spec.init_arguments is None else encode_payload(spec.init_arguments),
        resources=encode_resources(spec.resources),
        env=spec.env,
        max_concurrency=spec.max_concurrency,
        health=encode_health_policy(spec.health),
        start_deadline=encode_duration(spec.start_deadline_s),
        max_restarts=spec.max_restarts,
        on_failure=_ON_FAILURE[spec.on_failure],
        snapshot_interval=encode_duration(spec.snapshot_interval_s),
        shared=_SHARED[spec.shared],
    )


def read_actor_spec(reader: Reader, message: controller_pb2.ActorSpec) -> ActorSpec:
    """The actor's description of a message; what is unset has the default of ``ActorSpec``."""
    reader.name(message.name, "name")
    reader.import_path(message.import_path, "import_path")
    return ActorSpec(
        name=message.name,
        import_path=message.import_path,
        init_arguments=reader.payload(message, "init_arguments"),
        resources=read_resources(reader, message.resources, "resources"),
        env=reader.environment(message.env),
        max_concurrency=reader.count(
            reader.optional(message, "max_concurrency", _DEFAULT.max_concurrency),
            "max_concurrency",
            at_least=1,
            at_most=MAX_REQUESTS,
        ),
        health=read_health_policy(reader, message.health),
        start_deadline_s=reader.seconds(message, "start_deadline", _DEFAULT.start_deadline_s),
        max_restarts=reader.count(
            reader.optional(message, "max_restarts", _DEFAULT.max_restarts),
            "max_restarts",
            at_least=0,
            at_most=MAX_REQUESTS,
        ),
        on_failure=reader.choice(message.on_failure, "on_failure", _ON_FAILURE, _DEFAULT.on_failure),
        snapshot_interval_s=reader.seconds(
            message, "snapshot_interval", _DEFAULT.snapshot_interval_s, zero_allowed=True
        ),
        shared=reader.choice(message.shared, "shared", _SHARED, _DEFAULT.shared),
    )


def encode_actor_endpoint(endpoint: ActorEndpoint) -> controller_pb2.ActorEndpoint:
    """The message of where an actor is."""
    return controller_pb2.ActorEndpoint(
        name=endpoint.name,
        incarnation=endpoint.incarnation,
        address=endpoint.address,
        failure=None if endpoint.failure is None else encode_failure(endpoint.failure),
        restored=endpoint.restored,
        given_up=endpoint.given_up,
        replica_id=endpoint.replica_id,
    )


def decode_actor_endpoint(message: controller_pb2.ActorEndpoint) -> ActorEndpoint:
    """Where the actor of a message is."""
    return ActorEndpoint(
        name=message.name,
        incarnation=message.incarnation,
        address=message.address,
        failure=decode_failure(message.failure) if message.HasField("failure") else None,
        restored=message.restored,
        given_up=message.given_up,
        replica_id=ReplicaId(message.replica_id),
    )


def encode_actor_directory(actors: Iterable[ActorEndpoint]) -> controller_pb2.ActorDirectory:
    """The message of where all actors are."""
    return controller_pb2.ActorDirectory(actors=[encode_actor_endpoint(actor) for actor in actors])


def decode_actor_directory(message: controller_pb2.ActorDirectory) -> tuple[ActorEndpoint, ...]:
    """Where all actors of a message are."""
    return tuple(decode_actor_endpoint(actor) for actor in message.actors)


def encode_actor_assignment(assignment: ActorAssignment) -> controller_pb2.ActorAssignment:
    """The message of which actor a process is to run."""
    return controller_pb2.ActorAssignment(
        name=assignment.name, incarnation=assignment.incarnation, restore=assignment.restore
    )


def decode_actor_assignment(message: controller_pb2.ActorAssignment) -> ActorAssignment:
    """Which actor the process of a message is to run."""
    return ActorAssignment(name=message.name, incarnation=message.incarnation, restore=message.restore)


def encode_actor_status(status: ActorStatus) -> controller_pb2.ActorStatus:
    """The message of an actor's status."""
    return controller_pb2.ActorStatus(
        name=status.name,
        revision=status.revision or "",
        incarnation=status.incarnation,
        replica=None if status.replica is None else encode_replica(status.replica),
        phase=types_pb2.REPLICA_PHASE_UNSPECIFIED if status.phase is None else encode_phase(status.phase),
        pid=status.pid,
        restarts=status.restarts,
        start_failures=status.start_failures,
        failure=None if status.failure is None else encode_failure(status.failure),
        snapshot_time=encode_optional_time(status.snapshot_time),
        snapshot_bytes=status.snapshot_bytes,
        snapshot_incarnation=status.snapshot_incarnation,
    )


def decode_actor_status(message: controller_pb2.ActorStatus) -> ActorStatus:
    """The actor's status of a message.

    Raises:
        ConfigInvalidError: Its phase is not known.
    """
    return ActorStatus(
        name=message.name,
        revision=optional_revision(message.revision),
        incarnation=message.incarnation,
        replica=decode_replica(message.replica) if message.HasField("replica") else None,
        phase=decode_phase(message.phase) if message.phase else None,
        pid=message.pid,
        restarts=message.restarts,
        start_failures=message.start_failures,
        failure=decode_failure(message.failure) if message.HasField("failure") else None,
        snapshot_time=decode_optional_time(message, "snapshot_time"),
        snapshot_bytes=message.snapshot_bytes,
        snapshot_incarnation=message.snapshot_incarnation,
    )
