"""The endpoint table: which deployments there are, and which replicas serve them."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.errors import DeploymentUnavailableError, DeploymentUnknownError, MethodUnknownError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica


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
        self._ingress: dict[str, DeploymentRoute] = {}
        self._services: dict[str, tuple[DeploymentRoute, ...]] = {}

    def apply(self, change: TableChange) -> TableDifference:
        """Makes the table be as told. What is not newer changes nothing.

        Raises:
            TableGapError: It is a change of another table than this one.
        """
        if self._is_stale(change.version):
            return TableDifference()
        if change.snapshot:
            routes = {route.key: route for route in change.upserted_deployments}
            replicas = {replica.replica_id: replica for replica in change.upserted_replicas}
        else:
            if self.version is None or self.version.epoch != change.version.epoch:
                raise TableGapError(f"a change to {change.version} does not follow from {self.version}")
            routes, replicas = self._changed(change)
        difference = self._difference(routes, replicas)
        self.version, self.routes, self.replicas = change.version, routes, replicas
        self._index()
        return difference

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        """The route to a deployment; without a name, to the application's ingress.

        Raises:
            DeploymentUnknownError: There is none of this name.
            DeploymentUnavailableError: Nothing is ready and nothing is coming.
        """
        if deployment:
            route = self.routes.get(DeploymentKey(application, deployment))
        else:
            route = self._ingress.get(application)
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
        serving = self._services.get(service, ())
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

    def _changed(self, change: TableChange) -> tuple[dict[DeploymentKey, DeploymentRoute], dict[ReplicaId, Replica]]:
        gone = set(change.removed_deployments)
        gone_replicas = set(change.removed_replica_ids)
        routes = {key: route for key, route in self.routes.items() if key not in gone}
        routes.update((route.key, route) for route in change.upserted_deployments)
        replicas = {
            replica_id: replica
            for replica_id, replica in self.replicas.items()
            if replica_id not in gone_replicas and replica.key not in gone
        }
        replicas.update((replica.replica_id, replica) for replica in change.upserted_replicas)
        return routes, replicas

    def _difference(
        self, routes: dict[DeploymentKey, DeploymentRoute], replicas: dict[ReplicaId, Replica]
    ) -> TableDifference:
        return TableDifference(
            changed_routes=tuple(route for key, route in routes.items() if self.routes.get(key) != route),
            removed_routes=tuple(route for key, route in self.routes.items() if key not in routes),
            added_replicas=tuple(replica for name, replica in replicas.items() if name not in self.replicas),
            updated_replicas=tuple(
                replica
                for name, replica in replicas.items()
                if name in self.replicas and self.replicas[name] != replica
            ),
            removed_replicas=tuple(replica for name, replica in self.replicas.items() if name not in replicas),
        )

    def _index(self) -> None:
        self._ingress = {route.key.application: route for route in self.routes.values() if route.ingress}
        serving: dict[str, list[DeploymentRoute]] = {}
        for route in sorted(self.routes.values(), key=lambda route: route.key):
            for service in route.services:
                serving.setdefault(service.name, []).append(route)
        self._services = {name: tuple(routes) for name, routes in serving.items()}

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


def unavailable(route: DeploymentRoute) -> DeploymentUnavailableError:
    """The error for calls to a deployment that has nothing ready and nothing coming."""
    why = route.message or "nothing is ready and nothing is coming"
    return DeploymentUnavailableError(
        f"{route.key} is not available: {why}; see 'serve-core status'",
        details={"application": route.key.application, "deployment": route.key.deployment, "cause": route.message},
    )
