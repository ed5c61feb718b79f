"""The endpoint table's history: versions, deltas, and what routers have acknowledged of it.

A new controller starts above the version that is recorded. Its first table is one that every router must take whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica
from serve_core.plan.observed import RouterObserved
from serve_core.plan.plan import TableFacts
from serve_core.plan.policy import Policy

K = TypeVar("K")

TOMBSTONES_MAX = 10_000
"""Removals that are remembered, for deltas to routers that are behind; those further behind get a snapshot."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A replica of the table: since which version it is there, and since which it is as it is."""

    replica: Replica
    added: int
    changed: int


class EndpointTable:
    """What routers are to route by.

    Args:
        epoch: Names the life of the store.
        version: The version that is recorded: at least the newest that any router was given.
        started_at: When this controller began to listen.
    """

    def __init__(self, *, epoch: str, version: int, started_at: float, policy: Policy | None = None) -> None:
        self._epoch = epoch
        self._version = version
        self._first: int | None = None
        self._started_at = started_at
        self._policy = policy or Policy()
        self._routes: dict[DeploymentKey, tuple[DeploymentRoute, int]] = {}
        self._replicas: dict[ReplicaId, _Placed] = {}
        self._gone_routes: dict[DeploymentKey, int] = {}
        self._gone_replicas: dict[ReplicaId, int] = {}
        self._oldest_delta = version

    @property
    def version(self) -> TableVersion:
        """The version of the table as it is."""
        return TableVersion(self._epoch, self._version)

    @property
    def is_published(self) -> bool:
        """Whether there is a table of this life; before, routers are told nothing."""
        return self._first is not None

    @property
    def replica_ids(self) -> frozenset[ReplicaId]:
        """The replicas of the table."""
        return frozenset(self._replicas)

    def update(self, routes: Iterable[DeploymentRoute], replicas: Iterable[Replica]) -> bool:
        """Makes the table be this. Returns whether its version was raised, which is to be recorded before it is sent."""
        new_routes = {route.key: self._with_methods(route) for route in routes}
        new_replicas = {replica.replica_id: replica for replica in replicas}
        if self._first is not None and self._is_same(new_routes, new_replicas):
            return False
        self._version += 1
        if self._first is None:
            self._first = self._oldest_delta = self._version
        self._update_routes(new_routes)
        self._update_replicas(new_replicas)
        self._trim()
        return True

    def change_since(self, acknowledged: TableVersion | None) -> TableChange | None:
        """What leads a router from its table to this one, None if it is there: a delta if that is known, else all."""
        if acknowledged == self.version:
            return None
        if acknowledged is None or acknowledged.epoch != self._epoch or not self._knows_since(acknowledged.version):
            return TableChange(
                version=self.version,
                snapshot=True,
                upserted_deployments=tuple(route for route, _ in self._routes.values()),
                upserted_replicas=tuple(placed.replica for placed in self._replicas.values()),
            )
        since = acknowledged.version
        return TableChange(
            version=self.version,
            snapshot=False,
            upserted_deployments=tuple(route for route, changed in self._routes.values() if changed > since),
            removed_deployments=tuple(key for key, gone in self._gone_routes.items() if gone > since),
            upserted_replicas=tuple(placed.replica for placed in self._replicas.values() if placed.changed > since),
            removed_replica_ids=tuple(replica_id for replica_id, gone in self._gone_replicas.items() if gone > since),
        )

    def facts(self, replica_ids: Iterable[ReplicaId], routers: Iterable[RouterObserved], *, now: float) -> TableFacts:
        """What routers know of these replicas. A router whose stream broke counts until its lease is over."""
        lease_s = self._policy.router_lease_s
        live = [router for router in routers if router.connected or now < router.lost_at + lease_s]
        ends = [router.lost_at + lease_s for router in live if not router.connected]
        settled_at = self._started_at + lease_s
        if now < settled_at:
            ends.append(settled_at)
        wanted = frozenset(replica_ids)
        return TableFacts(
            acknowledged=frozenset(replica_id for replica_id in wanted if self._is_acknowledged(replica_id, live)),
            withdrawn=frozenset(
                replica_id for replica_id in wanted if self._is_withdrawn(replica_id, live, settled=now >= settled_at)
            ),
            wake_at=min(ends) if ends else None,
        )

    def _is_acknowledged(self, replica_id: ReplicaId, live: list[RouterObserved]) -> bool:
        placed = self._replicas.get(replica_id)
        return placed is not None and all(self._is_at_least(router, placed.added) for router in live)

    def _is_withdrawn(self, replica_id: ReplicaId, live: list[RouterObserved], *, settled: bool) -> bool:
        if replica_id in self._replicas or self._first is None:
            return False
        gone = self._gone_replicas.get(replica_id)
        if gone is None and not settled:
            # It may be in a table of an earlier life, and its routers may not be back yet.
            return False
        since = self._oldest_delta if gone is None else gone
        return all(router.acknowledged is None or self._is_at_least(router, since) for router in live)

    def _is_at_least(self, router: RouterObserved, version: int) -> bool:
        acknowledged = router.acknowledged
        return acknowledged is not None and acknowledged.epoch == self._epoch and acknowledged.version >= version

    def _with_methods(self, route: DeploymentRoute) -> DeploymentRoute:
        """While no replica tells what a deployment offers, what was known goes on."""
        before = self._routes.get(route.key)
        if before is None or route.methods or route.services:
            return route
        known = before[0]
        return replace(
            route, methods=known.methods, services=known.services, file_descriptor_set=known.file_descriptor_set
        )

    def _is_same(self, routes: dict[DeploymentKey, DeploymentRoute], replicas: dict[ReplicaId, Replica]) -> bool:
        return routes == {key: route for key, (route, _) in self._routes.items()} and replicas == {
            replica_id: placed.replica for replica_id, placed in self._replicas.items()
        }

    def _knows_since(self, version: int) -> bool:
        return self._oldest_delta <= version <= self._version

    def _update_routes(self, routes: dict[DeploymentKey, DeploymentRoute]) -> None:
        for key in self._routes.keys() - routes.keys():
            del self._routes[key]
            self._gone_routes[key] = self._version
        for key, route in routes.items():
            self._gone_routes.pop(key, None)
            before = self._routes.get(key)
            if before is None or before[0] != route:
                self._routes[key] = (route, self._version)

    def _update_replicas(self, replicas: dict[ReplicaId, Replica]) -> None:
        for replica_id in self._replicas.keys() - replicas.keys():
            del self._replicas[replica_id]
            self._gone_replicas[replica_id] = self._version
        for replica_id, replica in replicas.items():
            self._gone_replicas.pop(replica_id, None)
            before = self._replicas.get(replica_id)
            if before is None:
                self._replicas[replica_id] = _Placed(replica, self._version, self._version)
            elif before.replica != replica:
                self._replicas[replica_id] = _Placed(replica, before.added, self._version)

    def _trim(self) -> None:
        """Forgets the oldest removals, and with them the deltas from before."""
        dropped = max(_drop_oldest(self._gone_routes), _drop_oldest(self._gone_replicas))
        self._oldest_delta = max(self._oldest_delta, dropped)


def _drop_oldest(gone: dict[K, int]) -> int:
    """Drops what is too much, and returns the newest version of that; 0 if nothing was."""
    newest = 0
    while len(gone) > TOMBSTONES_MAX:
        newest = gone.pop(next(iter(gone)))
    return newest
