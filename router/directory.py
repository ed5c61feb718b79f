"""Tells health checks and reflection which users' services are served, as the table changes."""

from __future__ import annotations

from collections.abc import Iterable

from serve_core.errors import ConfigInvalidError
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.health import HealthServicer
from serve_core.runtime.log import get_logger
from serve_core.runtime.reflection import ReflectionTable
from serve_core.runtime.standard import OWN_SOURCE

_log = get_logger(__name__)


class Directory:
    """Follows the table.

    Args:
        health: A service is healthy while a deployment that serves it is available.
        reflection: Shows the services' files, the router's own first.
    """

    def __init__(self, health: HealthServicer, reflection: ReflectionTable) -> None:
        self._health = health
        self._reflection = reflection
        self._services: set[str] = set()
        self._indexes: dict[DeploymentKey, tuple[DeploymentRoute, DescriptorIndex]] = {}

    def update(self, routes: Iterable[DeploymentRoute]) -> None:
        """Makes both tell of these deployments."""
        serving = {route.key: route for route in routes if route.services}
        available = {service.name for route in serving.values() if route.available for service in route.services}
        known = {service.name for route in serving.values() for service in route.services}
        for name in self._services | known:
            self._health.set(name, serving=name in available)
        self._services = known
        self._indexes = {key: (route, self._index(route)) for key, route in serving.items()}
        sources = {str(key): index for key, (_, index) in self._indexes.items()}
        self._reflection.replace(sources, keep=OWN_SOURCE)

    def _index(self, route: DeploymentRoute) -> DescriptorIndex:
        before = self._indexes.get(route.key)
        if before is not None and before[0] == route:
            return before[1]
        names = [service.name for service in route.services]
        try:
            return DescriptorIndex.from_bytes(names, route.file_descriptor_set)
        except ConfigInvalidError as error:
            _log.warning("no reflection of a deployment's services", deployment=str(route.key), cause=error.message)
            return DescriptorIndex(names, ())
