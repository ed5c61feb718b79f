"""The endpoint table and its changes, to and from ``serve_core.v1``."""

from __future__ import annotations

from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.v1 import controller_pb2
from serve_core.wire.gang import decode_gang_route, encode_gang_route
from serve_core.wire.replica import (
    decode_methods,
    decode_replica,
    decode_user_services,
    encode_method,
    encode_replica,
    encode_user_service,
)

_AVAILABLE = controller_pb2.ROUTE_STATE_AVAILABLE
_UNAVAILABLE = controller_pb2.ROUTE_STATE_UNAVAILABLE


def encode_table_version(version: TableVersion) -> controller_pb2.TableVersion:
    """The message of a table version."""
    return controller_pb2.TableVersion(epoch=version.epoch, version=version.version)


def decode_table_version(message: controller_pb2.TableVersion) -> TableVersion:
    """The table version of a message."""
    return TableVersion(message.epoch, message.version)


def encode_deployment_key(key: DeploymentKey) -> controller_pb2.DeploymentKey:
    """The message of a deployment's name."""
    return controller_pb2.DeploymentKey(application=key.application, deployment=key.deployment)


def decode_deployment_key(message: controller_pb2.DeploymentKey) -> DeploymentKey:
    """The deployment's name of a message."""
    return DeploymentKey(message.application, message.deployment)


def encode_deployment_route(route: DeploymentRoute) -> controller_pb2.DeploymentRoute:
    """The message of a route."""
    return controller_pb2.DeploymentRoute(
        application=route.key.application,
        deployment=route.key.deployment,
        ingress=route.ingress,
        state=_AVAILABLE if route.available else _UNAVAILABLE,
        message=route.message,
        max_queued_requests=route.max_queued_requests,
        methods=[encode_method(method) for method in route.methods],
        services=[encode_user_service(service) for service in route.services],
        file_descriptor_set=route.file_descriptor_set,
        gang_route=encode_gang_route(route.gang_route),
        gang_size=route.gang_size,
    )


def decode_deployment_route(message: controller_pb2.DeploymentRoute) -> DeploymentRoute:
    """The route of a message; a state that is not known lets callers hope."""
    return DeploymentRoute(
        key=DeploymentKey(message.application, message.deployment),
        ingress=message.ingress,
        available=message.state != _UNAVAILABLE,
        message=message.message,
        max_queued_requests=message.max_queued_requests,
        methods=decode_methods(message.methods),
        services=decode_user_services(message.services),
        file_descriptor_set=message.file_descriptor_set,
        gang_route=decode_gang_route(message.gang_route),
        gang_size=message.gang_size or 1,
    )


def encode_table_change(change: TableChange) -> controller_pb2.WatchEndpointsResponse:
    """The message of a table change."""
    return controller_pb2.WatchEndpointsResponse(
        version=encode_table_version(change.version),
        snapshot=change.snapshot,
        upserted_deployments=[encode_deployment_route(route) for route in change.upserted_deployments],
        removed_deployments=[encode_deployment_key(key) for key in change.removed_deployments],
        upserted_replicas=[encode_replica(replica) for replica in change.upserted_replicas],
        removed_replica_ids=change.removed_replica_ids,
    )


def decode_table_change(message: controller_pb2.WatchEndpointsResponse) -> TableChange:
    """The table change of a message."""
    return TableChange(
        version=decode_table_version(message.version),
        snapshot=message.snapshot,
        upserted_deployments=tuple(decode_deployment_route(route) for route in message.upserted_deployments),
        removed_deployments=tuple(decode_deployment_key(key) for key in message.removed_deployments),
        upserted_replicas=tuple(decode_replica(replica) for replica in message.upserted_replicas),
        removed_replica_ids=tuple(ReplicaId(replica_id) for replica_id in message.removed_replica_ids),
    )
