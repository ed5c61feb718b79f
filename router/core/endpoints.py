"""The endpoint table: which deployments there are, and which replicas serve them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from serve_core.errors import DeploymentUnavailableError, DeploymentUnknownError, MethodUnknownError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica

G = TypeVar("G")
K = TypeVar("K")
V = TypeVar("V")


class TableGapError(Exception):
    """A change does not follow from the table: the whole table is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """What a change did, so that connections and queues can follow."""

    changed_routes: tuple[DeploymentRoute, ...] = ()
    removed_routes: tuple[DeploymentRoute, ...] = ()
    added_replicas: tuple[Replica, ...] = ()
    updated_replicas: tuple[Replica, ...] = ()
    removed_replicas: tuple[Replica, ...] = ()


class EndpointTable:
    """The last table that the controller told. It stays in force for as long as the controller is away."""

    def __init__(self) -> None:
        self.version: TableVersion | None = None
        self.routes: dict[DeploymentKey, DeploymentRoute] = {}
        self.replicas: dict[ReplicaId, Replica] = {}
        self._members: dict[DeploymentKey, dict[ReplicaId, Replica]] = {}
        self._ingress: dict[str, dict[DeploymentKey, DeploymentRoute]] = {}
        self._services: dict[str, dict[DeploymentKey, DeploymentRoute]] = {}

    def apply(self, change: TableChange) -> TableDifference:
        """Makes the table be as told. What is not newer changes nothing. Costs what is told, and not what is there.

        Raises:
            TableGapError: It is a change of another table than this one.
        """
        if self._is_stale(change.version):
            return TableDifference()
        if not change.snapshot and (self.version is None or self.version.epoch != change.version.epoch):
            raise TableGapError(f"a change to {change.version} does not follow from {self.version}")
        routes = {route.key: route for route in change.upserted_deployments}
        replicas = {replica.replica_id: replica for replica in change.upserted_replicas}
        gone_routes, gone_replicas = self._gone(change)
        removed_routes = [self._remove_route(key) for key in gone_routes if key not in routes]
        removed_replicas = [self._remove_replica(name) for name in gone_replicas if name not in replicas]
        changed_routes = [route for route in routes.values() if self.routes.get(route.key) != route]
        added = [replica for name, replica in replicas.items() if name not in self.replicas]
        updated = [replica for name, replica in replicas.items() if self.replicas.get(name, replica) != replica]
        for route in changed_routes:
            self._put_route(route)
        for replica in (*added, *updated):
            self._put_replica(replica)
        self.version = change.version
        return TableDifference(
            changed_routes=tuple(changed_routes),
            removed_routes=tuple(removed_routes),
            added_replicas=tuple(added),
            updated_replicas=tuple(updated),
            removed_replicas=tuple(removed_replicas),
        )

    def members(self, key: DeploymentKey) -> tuple[Replica, ...]:
        """The replicas of a deployment."""
        return tuple(self._members.get(key, {}).values())

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        """The route to a deployment; without a name, to the application's ingress.

        Raises:
            DeploymentUnknownError: There is none of this name.
            DeploymentUnavailableError: Nothing is ready and nothing is coming.
        """
        if deployment:
            route = self.routes.get(DeploymentKey(application, deployment))
        else:
            route = next(iter(self._ingress.get(application, {}).values()), None)
        if route is None:
            raise self._unknown(application, deployment)
        if not route.available:
            raise unavailable(route)
        return route

    def resolve_service(self, service: str, application: str = "") -> DeploymentRoute:
        """The route to the deployment that serves a user-defined gRPC service.

        Raises:
            MethodUnknownError: None does, or several applications do and none was named.
            DeploymentUnavailableError: Nothing is ready and nothing is coming.
        """
        serving = [route for _, route in sorted(self._services.get(service, {}).items())]
        fitting = [route for route in serving if not application or route.key.application == application]
        names = sorted({route.key.application for route in serving})
        details = {"service": service, "application": application, "applications": ", ".join(names)}
        if not fitting:
            where = f"application {application!r}" if application else "any application"
            hint = f"; it is served by {', '.join(names)}" if names else ""
            raise MethodUnknownError(f"service {service} is not served by {where}{hint}", details=details)
        if len({route.key.application for route in fitting}) > 1:
            raise MethodUnknownError(
                f"service {service} is served by several applications ({', '.join(names)}): "
                "name one in the metadata key serve-core-app",
                details=details,
            )
        # Where two deployments of one application serve it, calls go to the one at the application's entrance.
        chosen = next((route for route in fitting if route.ingress), fitting[0])
        if not chosen.available:
            raise unavailable(chosen)
        return chosen

    def _is_stale(self, version: TableVersion) -> bool:
        return (
            self.version is not None and self.version.epoch == version.epoch and version.version <= self.version.version
        )

    def _gone(self, change: TableChange) -> tuple[list[DeploymentKey], list[ReplicaId]]:
        """What a change takes out of the table, unless it puts it there again: a route takes its replicas with it."""
        if change.snapshot:
            return list(self.routes), list(self.replicas)
        routes = [key for key in dict.fromkeys(change.removed_deployments) if key in self.routes]
        members = [name for key in change.removed_deployments for name in self._members.get(key, ())]
        told = [name for name in change.removed_replica_ids if name in self.replicas]
        return routes, list(dict.fromkeys((*members, *told)))

    def _put_route(self, route: DeploymentRoute) -> None:
        if route.key in self.routes:
            self._remove_route(route.key)
        self.routes[route.key] = route
        if route.ingress:
            self._ingress.setdefault(route.key.application, {})[route.key] = route
        for service in route.services:
            self._services.setdefault(service.name, {})[route.key] = route

    def _remove_route(self, key: DeploymentKey) -> DeploymentRoute:
        route = self.routes.pop(key)
        if route.ingress:
            _discard(self._ingress, key.application, key)
        for service in route.services:
            _discard(self._services, service.name, key)
        return route

    def _put_replica(self, replica: Replica) -> None:
        if replica.replica_id in self.replicas:
            self._remove_replica(replica.replica_id)
        self.replicas[replica.replica_id] = replica
        self._members.setdefault(replica.key, {})[replica.replica_id] = replica

    def _remove_replica(self, replica_id: ReplicaId) -> Replica:
        replica = self.replicas.pop(replica_id)
        _discard(self._members, replica.key, replica_id)
        return replica

    def _unknown(self, application: str, deployment: str) -> DeploymentUnknownError:
        applications = sorted({key.application for key in self.routes})
        if application not in applications:
            listed = ", ".join(applications) or "none"
            message = f"application {application!r} is not known; there are: {listed}"
        else:
            deployments = sorted(key.deployment for key in self.routes if key.application == application)
            what = f"deployment {deployment!r}" if deployment else "an ingress deployment"
            message = f"application {application!r} has no {what}; it has: {', '.join(deployments)}"
        return DeploymentUnknownError(message, details={"application": application, "deployment": deployment})


def _discard(index: dict[G, dict[K, V]], group: G, key: K) -> None:
    """Takes a key out of its group, and an empty group out of the index."""
    index.get(group, {}).pop(key, None)
    if not index.get(group):
        index.pop(group, None)


def unavailable(route: DeploymentRoute) -> DeploymentUnavailableError:
    """The error for calls to a deployment that has nothing ready and nothing coming."""
    why = route.message or "nothing is ready and nothing is coming"
    return DeploymentUnavailableError(
        f"{route.key} is not available: {why}; see 'serve-core status'",
        details={"application": route.key.application, "deployment": route.key.deployment, "cause": route.message},
    )
