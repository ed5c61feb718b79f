"""Replicas and what they say of themselves, to and from ``serve_core.v1``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.load import Load
from serve_core.model.replica import (
    Environment,
    Failure,
    Gang,
    Method,
    MethodKind,
    Replica,
    ReplicaPhase,
    ReplicaReport,
    UserService,
)
from serve_core.v1 import controller_pb2, types_pb2
from serve_core.wire.fields import decode_duration, decode_enum, decode_time, encode_optional_duration, encode_time


def encode_load(load: Load) -> types_pb2.Load:
    """The message of a load."""
    return types_pb2.Load(ongoing=load.ongoing, reserved=load.reserved, capacity=load.capacity)


def fill_load(message: types_pb2.Load, load: Load) -> None:
    """Makes ``message``, a field of another one, that of a load: at a third of what it costs to put one into the other."""
    message.ongoing, message.reserved, message.capacity = load


def decode_load(message: types_pb2.Load) -> Load:
    """The load of a message."""
    return Load(message.ongoing, message.reserved, message.capacity)


def encode_phase(phase: ReplicaPhase) -> types_pb2.ReplicaPhase.ValueType:
    """The number of a phase."""
    return cast("types_pb2.ReplicaPhase.ValueType", int(phase))


def decode_phase(number: int, *, field: str = "phase") -> ReplicaPhase:
    """The phase with this number.

    Raises:
        ConfigInvalidError: There is none.
    """
    return decode_enum(ReplicaPhase, number, field)


def encode_gang(gang: Gang) -> types_pb2.GangMembership:
    """The message of a gang membership."""
    return types_pb2.GangMembership(
        gang_id=gang.gang_id, rank=gang.rank, size=gang.size, epoch=gang.epoch, role=gang.role
    )


def decode_gang(message: types_pb2.GangMembership) -> Gang:
    """The gang membership of a message; what is unset makes a gang of one."""
    return Gang(
        gang_id=GangId(message.gang_id),
        rank=message.rank,
        size=message.size or 1,
        epoch=message.epoch or 1,
        role=message.role,
    )


def encode_replica(replica: Replica) -> types_pb2.Replica:
    """The message of a replica."""
    return types_pb2.Replica(
        replica_id=replica.replica_id,
        application=replica.key.application,
        deployment=replica.key.deployment,
        revision=replica.revision,
        epoch=replica.epoch,
        address=replica.address,
        node_id=replica.node_id,
        zone=replica.zone,
        gang=encode_gang(replica.gang),
        metadata=replica.metadata,
    )


def decode_replica(message: types_pb2.Replica) -> Replica:
    """The replica of a message."""
    return Replica(
        replica_id=ReplicaId(message.replica_id),
        key=DeploymentKey(message.application, message.deployment),
        revision=RevisionId(message.revision),
        epoch=message.epoch,
        address=message.address,
        node_id=NodeId(message.node_id),
        zone=message.zone,
        gang=decode_gang(message.gang),
        metadata=dict(message.metadata),
    )


def encode_method(method: Method) -> types_pb2.Method:
    """The message of a method."""
    return types_pb2.Method(name=method.name, kind=cast("types_pb2.MethodKind.ValueType", int(method.kind)))


def decode_method(message: types_pb2.Method) -> Method:
    """The method of a message.

    Raises:
        ConfigInvalidError: Its kind is not known.
    """
    return Method(message.name, decode_enum(MethodKind, message.kind, f"methods[{message.name!r}].kind"))


def decode_methods(messages: Iterable[types_pb2.Method]) -> tuple[Method, ...]:
    """The methods of messages."""
    return tuple(decode_method(message) for message in messages)


def encode_user_service(service: UserService) -> types_pb2.UserService:
    """The message of a user-defined service."""
    return types_pb2.UserService(name=service.name, methods=[encode_method(method) for method in service.methods])


def decode_user_service(message: types_pb2.UserService) -> UserService:
    """The user-defined service of a message."""
    return UserService(message.name, decode_methods(message.methods))


def decode_user_services(messages: Iterable[types_pb2.UserService]) -> tuple[UserService, ...]:
    """The user-defined services of messages."""
    return tuple(decode_user_service(message) for message in messages)


def encode_failure(failure: Failure) -> types_pb2.Failure:
    """The message of a failure."""
    return types_pb2.Failure(
        reason=failure.reason,
        message=failure.message,
        traceback=failure.traceback,
        time=encode_time(failure.time),
    )


def decode_failure(message: types_pb2.Failure) -> Failure:
    """The failure of a message."""
    return Failure(
        reason=message.reason,
        message=message.message,
        traceback=message.traceback,
        time=decode_time(message.time),
    )


def encode_environment(environment: Environment) -> types_pb2.Environment:
    """The message of an environment."""
    return types_pb2.Environment(
        interpreter=environment.interpreter,
        python_version=environment.python_version,
        packages=environment.packages,
    )


def decode_environment(message: types_pb2.Environment) -> Environment:
    """The environment of a message."""
    return Environment(
        interpreter=message.interpreter, python_version=message.python_version, packages=dict(message.packages)
    )


def encode_replica_report(report: ReplicaReport) -> controller_pb2.ReplicaReport:
    """The message of a replica's report."""
    return controller_pb2.ReplicaReport(
        phase=encode_phase(report.phase),
        address=report.address,
        load=encode_load(report.load),
        methods=[encode_method(method) for method in report.methods],
        services=[encode_user_service(service) for service in report.services],
        file_descriptor_set=report.file_descriptor_set,
        metadata=report.metadata,
        failure=_encode_optional(report.failure),
        healthy=report.healthy,
        is_ready=report.is_ready,
        environment=None if report.environment is None else encode_environment(report.environment),
        drain_remaining=encode_optional_duration(report.drain_remaining_s),
        drained=report.drained,
        rendezvous_port=report.rendezvous_port,
        gang_epoch=report.gang_epoch,
        snapshot_failure=_encode_optional(report.snapshot_failure),
        reconfigure_failure=_encode_optional(report.reconfigure_failure),
    )


def decode_replica_report(message: controller_pb2.ReplicaReport) -> ReplicaReport:
    """The replica's report of a message.

    Raises:
        ConfigInvalidError: The phase or a method's kind is not known.
    """
    return ReplicaReport(
        phase=decode_phase(message.phase, field="report.phase"),
        address=message.address,
        load=decode_load(message.load),
        methods=decode_methods(message.methods),
        services=decode_user_services(message.services),
        file_descriptor_set=message.file_descriptor_set,
        metadata=dict(message.metadata),
        failure=decode_failure(message.failure) if message.HasField("failure") else None,
        healthy=message.healthy,
        is_ready=message.is_ready,
        environment=decode_environment(message.environment) if message.HasField("environment") else None,
        drain_remaining_s=decode_duration(message.drain_remaining) if message.HasField("drain_remaining") else None,
        drained=message.drained,
        rendezvous_port=message.rendezvous_port,
        gang_epoch=message.gang_epoch,
        snapshot_failure=decode_failure(message.snapshot_failure) if message.HasField("snapshot_failure") else None,
        reconfigure_failure=(
            decode_failure(message.reconfigure_failure) if message.HasField("reconfigure_failure") else None
        ),
    )


def _encode_optional(failure: Failure | None) -> types_pb2.Failure | None:
    return None if failure is None else encode_failure(failure)
