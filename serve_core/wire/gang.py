"""How gangs are described, to and from ``serve_core.v1``."""

from __future__ import annotations

from serve_core.model.gang import GangRoute
from serve_core.v1 import controller_pb2

_ROUTES = {
    GangRoute.ALL: controller_pb2.GANG_ROUTE_ALL,
    GangRoute.LEADER: controller_pb2.GANG_ROUTE_LEADER,
}
_ROUTE_OF = {number: route for route, number in _ROUTES.items()}


def encode_gang_route(route: GangRoute) -> controller_pb2.GangRoute.ValueType:
    """The number of a route."""
    return _ROUTES[route]


def decode_gang_route(number: int) -> GangRoute:
    """The route with this number; one that is unset, or not known, is ALL."""
    return _ROUTE_OF.get(number, GangRoute.ALL)  # type: ignore[call-overload, no-any-return]
