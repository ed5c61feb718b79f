"""What operators see, to and from ``serve_core.v1``."""

from __future__ import annotations

from typing import cast

from serve_core.model.ids import NodeId, RevisionId, RouterId
from serve_core.model.status import (
    ApplicationStatus,
    ClusterStatus,
    Condition,
    ConditionType,
    DeploymentState,
    DeploymentStatus,
    NodeStatus,
    ReplicaStatus,
    RolloutPhase,
    RolloutStatus,
    RouterStatus,
)
from serve_core.v1 import controller_pb2
from serve_core.wire.actors import decode_actor_status, encode_actor_status
from serve_core.wire.autoscaling import decode_autoscaling_status, encode_autoscaling_status
from serve_core.wire.fields import (
    decode_duration,
    decode_enum,
    decode_optional_time,
    decode_time,
    encode_optional_duration,
    encode_optional_time,
    encode_time,
    invalid,
    optional_revision,
)
from serve_core.wire.replica import (
    decode_failure,
    decode_load,
    decode_phase,
    decode_replica,
    encode_failure,
    encode_load,
    encode_phase,
    encode_replica,
)
from serve_core.wire.resources import decode_resources, encode_resources


def encode_condition(condition: Condition) -> controller_pb2.Condition:
    """The message of a condition."""
    return controller_pb2.Condition(
        type=condition.type.value,
        status=controller_pb2.CONDITION_STATUS_TRUE if condition.status else controller_pb2.CONDITION_STATUS_FALSE,
        reason=condition.reason,
        message=condition.message,
        last_transition_time=encode_time(condition.last_transition_time),
    )


def decode_condition(message: controller_pb2.Condition) -> Condition:
    """The condition of a message.

    Raises:
        ConfigInvalidError: Its type is not known.
    """
    try:
        kind = ConditionType(message.type)
    except ValueError:
        known = ", ".join(ConditionType)
        raise invalid("condition.type", f"{message.type!r} is not one of {known}", what="the message") from None
    return Condition(
        type=kind,
        status=message.status == controller_pb2.CONDITION_STATUS_TRUE,
        reason=message.reason,
        message=message.message,
        last_transition_time=decode_time(message.last_transition_time),
    )


def encode_replica_status(status: ReplicaStatus) -> controller_pb2.ReplicaStatus:
    """The message of a replica's status."""
    return controller_pb2.ReplicaStatus(
        replica=encode_replica(status.replica),
        phase=encode_phase(status.phase),
        pid=status.pid,
        load=encode_load(status.load),
        create_time=encode_time(status.create_time),
        failure=None if status.failure is None else encode_failure(status.failure),
        in_rotation=status.in_rotation,
        suspicion=status.suspicion,
        drain_remaining=encode_optional_duration(status.drain_remaining_s),
        restarts=status.restarts,
    )


def decode_replica_status(message: controller_pb2.ReplicaStatus) -> ReplicaStatus:
    """The replica's status of a message."""
    return ReplicaStatus(
        replica=decode_replica(message.replica),
        phase=decode_phase(message.phase),
        pid=message.pid,
        load=decode_load(message.load),
        create_time=decode_time(message.create_time),
        failure=decode_failure(message.failure) if message.HasField("failure") else None,
        in_rotation=message.in_rotation,
        suspicion=message.suspicion,
        drain_remaining_s=decode_duration(message.drain_remaining) if message.HasField("drain_remaining") else None,
        restarts=message.restarts,
    )


def encode_rollout_status(status: RolloutStatus) -> controller_pb2.RolloutStatus:
    """The message of a rollout's status."""
    return controller_pb2.RolloutStatus(
        phase=cast("controller_pb2.RolloutPhase.ValueType", int(status.phase)),
        from_revision=status.from_revision or "",
        to_revision=status.to_revision,
        updated_available=status.updated_available,
        waiting_for=status.waiting_for,
        failed_revision=status.failed_revision or "",
        failure=None if status.failure is None else encode_failure(status.failure),
        progress_deadline_time=encode_optional_time(status.progress_deadline_time),
    )


def decode_rollout_status(message: controller_pb2.RolloutStatus) -> RolloutStatus:
    """The rollout's status of a message.

    Raises:
        ConfigInvalidError: Its phase is not known.
    """
    return RolloutStatus(
        phase=decode_enum(RolloutPhase, message.phase, "rollout.phase"),
        from_revision=optional_revision(message.from_revision),
        to_revision=RevisionId(message.to_revision),
        updated_available=message.updated_available,
        waiting_for=message.waiting_for,
        failed_revision=optional_revision(message.failed_revision),
        failure=decode_failure(message.failure) if message.HasField("failure") else None,
        progress_deadline_time=decode_optional_time(message, "progress_deadline_time"),
    )


def encode_deployment_status(status: DeploymentStatus) -> controller_pb2.DeploymentStatus:
    """The message of a deployment's status."""
    return controller_pb2.DeploymentStatus(
        name=status.name,
        revision=status.revision,
        state=cast("controller_pb2.DeploymentState.ValueType", int(status.state)),
        message=status.message,
        num_replicas=status.num_replicas,
        ready_replicas=status.ready_replicas,
        updated_replicas=status.updated_replicas,
        start_failures=status.start_failures,
        conditions=[encode_condition(condition) for condition in status.conditions],
        replicas=[encode_replica_status(replica) for replica in status.replicas],
        failures=[encode_failure(failure) for failure in status.failures],
        paused=status.paused,
        revisions=status.revisions,
        rollout=None if status.rollout is None else encode_rollout_status(status.rollout),
        last_good_revision=status.last_good_revision or "",
        environment_differences=status.environment_differences,
        actors=[encode_actor_status(actor) for actor in status.actors],
        queued_requests=status.queued_requests,
        autoscaling=encode_autoscaling_status(status.autoscaling),
    )


def decode_deployment_status(message: controller_pb2.DeploymentStatus) -> DeploymentStatus:
    """The deployment's status of a message."""
    return DeploymentStatus(
        name=message.name,
        revision=RevisionId(message.revision),
        state=decode_enum(DeploymentState, message.state, "state"),
        message=message.message,
        num_replicas=message.num_replicas,
        ready_replicas=message.ready_replicas,
        updated_replicas=message.updated_replicas,
        start_failures=message.start_failures,
        conditions=tuple(decode_condition(condition) for condition in message.conditions),
        replicas=tuple(decode_replica_status(replica) for replica in message.replicas),
        failures=tuple(decode_failure(failure) for failure in message.failures),
        paused=message.paused,
        revisions=tuple(RevisionId(revision) for revision in message.revisions),
        rollout=decode_rollout_status(message.rollout) if message.HasField("rollout") else None,
        last_good_revision=optional_revision(message.last_good_revision),
        environment_differences=tuple(message.environment_differences),
        actors=tuple(decode_actor_status(actor) for actor in message.actors),
        queued_requests=message.queued_requests,
        autoscaling=decode_autoscaling_status(message.autoscaling) if message.HasField("autoscaling") else None,
    )


def encode_application_status(status: ApplicationStatus) -> controller_pb2.ApplicationStatus:
    """The message of an application's status."""
    return controller_pb2.ApplicationStatus(
        name=status.name,
        generation=status.generation,
        observed_generation=status.observed_generation,
        ingress=status.ingress,
        deployments=[encode_deployment_status(deployment) for deployment in status.deployments],
    )


def decode_application_status(message: controller_pb2.ApplicationStatus) -> ApplicationStatus:
    """The application's status of a message."""
    return ApplicationStatus(
        name=message.name,
        generation=message.generation,
        observed_generation=message.observed_generation,
        ingress=message.ingress,
        deployments=tuple(decode_deployment_status(deployment) for deployment in message.deployments),
    )


def encode_router_status(status: RouterStatus) -> controller_pb2.RouterStatus:
    """The message of a router's status."""
    return controller_pb2.RouterStatus(
        router_id=status.router_id,
        address=status.address,
        http_address=status.http_address,
        acknowledged_version=status.acknowledged_version,
    )


def decode_router_status(message: controller_pb2.RouterStatus) -> RouterStatus:
    """The router's status of a message."""
    return RouterStatus(
        router_id=RouterId(message.router_id),
        address=message.address,
        http_address=message.http_address,
        acknowledged_version=message.acknowledged_version,
    )


def encode_node_status(status: NodeStatus) -> controller_pb2.NodeStatus:
    """The message of a node's status."""
    return controller_pb2.NodeStatus(
        node_id=status.node_id,
        zone=status.zone,
        total=encode_resources(status.total),
        used=encode_resources(status.used),
        labels=status.labels,
        draining=status.draining,
        drain_deadline_time=encode_optional_time(status.drain_deadline_time),
    )


def decode_node_status(message: controller_pb2.NodeStatus) -> NodeStatus:
    """The node's status of a message."""
    return NodeStatus(
        node_id=NodeId(message.node_id),
        zone=message.zone,
        total=decode_resources(message.total),
        used=decode_resources(message.used),
        labels=dict(message.labels),
        draining=message.draining,
        drain_deadline_time=decode_optional_time(message, "drain_deadline_time"),
    )


def encode_cluster_status(status: ClusterStatus) -> controller_pb2.ClusterStatus:
    """The message of everything's status."""
    return controller_pb2.ClusterStatus(
        applications=[encode_application_status(application) for application in status.applications],
        routers=[encode_router_status(router) for router in status.routers],
        nodes=[encode_node_status(node) for node in status.nodes],
        table_version=status.table_version,
        table_epoch=status.table_epoch,
        pid=status.pid,
        version=status.version,
    )


def decode_cluster_status(message: controller_pb2.ClusterStatus) -> ClusterStatus:
    """Everything's status of a message.

    Raises:
        ConfigInvalidError: A state, phase or condition is not known.
    """
    return ClusterStatus(
        applications=tuple(decode_application_status(application) for application in message.applications),
        routers=tuple(decode_router_status(router) for router in message.routers),
        nodes=tuple(decode_node_status(node) for node in message.nodes),
        table_version=message.table_version,
        table_epoch=message.table_epoch,
        pid=message.pid,
        version=message.version,
    )
