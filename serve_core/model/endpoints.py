"""What routers know: the endpoint table, and what changes in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Method, Replica, UserService


class TableVersion(NamedTuple):
    """A table's place in history. Versions compare only within one epoch, the life of a store."""

    epoch: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRoute:
    """How to route to a deployment. When not ``available``, ``message`` says why: refuse calls at once.

    ``gang_size`` is what the wanted revision has; what is in the table may be of another one, and says so itself.
    """

    key: DeploymentKey
    ingress: bool
    available: bool
    message: str = ""
    max_queued_requests: int = 1000
    methods: tuple[Method, ...] = ()
    services: tuple[UserService, ...] = ()
    file_descriptor_set: bytes = b""
    gang_route: GangRoute = GangRoute.ALL
    gang_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """What leads to ``version``; a snapshot replaces the whole table."""

    version: TableVersion
    snapshot: bool
    upserted_deployments: tuple[DeploymentRoute, ...] = ()
    removed_deployments: tuple[DeploymentKey, ...] = ()
    upserted_replicas: tuple[Replica, ...] = ()
    removed_replica_ids: tuple[ReplicaId, ...] = ()
