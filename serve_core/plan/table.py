"""The endpoint table's history: versions, deltas, and what routers have acknowledged of it.

A new controller starts above the version that is recorded. Its first table is one that every router must take whole.
Everything here costs what has changed, and not what there is, except for that first table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId, RouterId
from serve_core.model.replica import Replica
from serve_core.plan.endpoints import NOTHING, TablePart
from serve_core.plan.observed import Observed, RouterObserved
from serve_core.plan.plan import Awaited, TableFacts
from serve_core.plan.policy import Policy

K = TypeVar("K")
V = TypeVar("V")

TOMBSTONES_MAX = 10_000
"""Removals that are remembered, for deltas to routers that are behind; those further behind get a snapshot."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A replica of the table: since which version it is there, and since which it is as it is."""

    replica: Replica
    added: int
    changed: int


@dataclass(frozen=True, slots=True)
class Audience:
    """What the live routers have acknowledged, in sum.

    Attributes:
        routed: Every one of them routes by this version or a later one; infinite if there is none, -1 if one has no table
            of this life.
        left: The same of those that have a table at all: who has none sends nothing anywhere.
        ends_at: When a router's lease ends, which may change this; None if none does.
        positions: The version that each routes by, -1 if it has no table of this life.
    """

    routed: float = math.inf
    left: float = math.inf
    ends_at: float | None = None
    positions: tuple[tuple[RouterId, float], ...] = ()


class EndpointTable:
    """What routers are to route by.

    Args:
        epoch: Names the life of the store.
        version: The version that is recorded: at least the newest that any router was given.
    """

    def __init__(self, *, epoch: str, version: int, policy: Policy | None = None) -> None:
        self._epoch = epoch
        self._version = version
        self._first: int | None = None
        self._policy = policy or Policy()
        # Routers may still route by a table of an earlier life, and not be back yet.
        self._succeeds = version > 0
        # What is in the table, what has left it, and which deployments that concerned: the last changed comes last.
        self._routes: dict[DeploymentKey, tuple[DeploymentRoute, int]] = {}
        self._replicas: dict[ReplicaId, _Placed] = {}
        self._gone_routes: dict[DeploymentKey, int] = {}
        self._gone_replicas: dict[ReplicaId, int] = {}
        self._touched: dict[DeploymentKey, int] = {}
        self._members: dict[DeploymentKey, dict[GangId, dict[ReplicaId, None]]] = {}
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

    def __len__(self) -> int:
        return len(self._replicas)

    def __contains__(self, replica_id: ReplicaId) -> bool:
        return replica_id in self._replicas

    def gangs_in(self, key: DeploymentKey) -> int:
        """How many gangs of a deployment are in the table."""
        return len(self._members.get(key, ()))

    def update(self, routes: Iterable[DeploymentRoute], replicas: Iterable[Replica]) -> bool:
        """Makes the whole table be this. Returns whether its version was raised: see ``update_parts``."""
        parts: dict[DeploymentKey, TablePart] = dict.fromkeys((*self._routes, *self._members), NOTHING)
        for route in routes:
            parts[route.key] = TablePart(route, ())
        members: dict[DeploymentKey, list[Replica]] = {}
        for replica in replicas:
            members.setdefault(replica.key, []).append(replica)
        for key, mine in members.items():
            parts[key] = TablePart(parts.get(key, NOTHING).route, tuple(mine))
        return self.update_parts(parts)

    def update_parts(self, parts: Mapping[DeploymentKey, TablePart]) -> bool:
        """Makes these deployments' parts of the table be so, in one version; the rest stays as it is.

        Returns:
            Whether its version was raised, which is to be recorded before it is sent.
        """
        changes = [change for key, part in parts.items() if (change := self._compare(key, part)).is_any]
        if self._first is not None and not changes:
            return False
        self._version += 1
        if self._first is None:
            self._first = self._oldest_delta = self._version
        for change in changes:
            self._enter(change)
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
        routes = _newer(((route, changed) for route, changed in reversed(self._routes.values())), since)
        replicas = _newer(((placed.replica, placed.changed) for placed in reversed(self._replicas.values())), since)
        return TableChange(
            version=self.version,
            snapshot=False,
            upserted_deployments=tuple(routes),
            removed_deployments=tuple(_newer(reversed(self._gone_routes.items()), since)),
            upserted_replicas=tuple(replicas),
            removed_replica_ids=tuple(_newer(reversed(self._gone_replicas.items()), since)),
        )

    def touched_since(self, version: float) -> tuple[DeploymentKey, ...] | None:
        """The deployments whose parts have changed after a version; None if that is not known any more."""
        if version < self._oldest_delta:
            return None
        return tuple(_newer(reversed(self._touched.items()), version))

    def audience(self, routers: Iterable[RouterObserved], *, now: float) -> Audience:
        """What the routers have acknowledged. One whose stream broke counts until its lease is over."""
        lease_s = self._policy.router_lease_s
        live = [router for router in routers if router.connected or now < router.lost_at + lease_s]
        return Audience(
            routed=min((self._position(router) for router in live), default=math.inf),
            left=min((self._position(router) for router in live if router.acknowledged is not None), default=math.inf),
            ends_at=min((router.lost_at + lease_s for router in live if not router.connected), default=None),
            positions=tuple((router.router_id, self._position(router)) for router in live),
        )

    def facts(self, replica_ids: Iterable[ReplicaId], observed: Observed, *, now: float) -> TableFacts:
        """What routers know of these replicas."""
        audience = self.audience(observed.routers.values(), now=now)
        return self.facts_for(replica_ids, audience, listening_since=observed.listening_since, now=now)

    def facts_for(
        self, replica_ids: Iterable[ReplicaId], audience: Audience, *, listening_since: float, now: float
    ) -> TableFacts:
        """The same, where what the routers have acknowledged was summed up already."""
        settled_at = listening_since + self._policy.router_lease_s
        settled = now >= settled_at or not self._succeeds
        ends = [end for end in (audience.ends_at, None if settled else settled_at) if end is not None]
        wanted = tuple(replica_ids)
        acknowledged = frozenset(one for one in wanted if self._is_acknowledged(one, audience))
        withdrawn = frozenset(one for one in wanted if self._is_withdrawn(one, audience, settled=settled))
        return TableFacts(
            acknowledged=acknowledged,
            withdrawn=withdrawn,
            wake_at=min(ends) if ends else None,
            awaited={
                one: awaited
                for one in wanted
                if one not in acknowledged and one not in withdrawn and (awaited := self._awaited(one, audience))
            },
        )

    def _awaited(self, replica_id: ReplicaId, audience: Audience) -> Awaited | None:
        """Who has not acknowledged the coming or going of a replica; None if no table tells of it."""
        placed = self._replicas.get(replica_id)
        version = placed.added if placed is not None else self._gone_replicas.get(replica_id)
        if version is None:
            return None
        behind = tuple(router_id for router_id, position in audience.positions if position < version)
        return Awaited(version, behind) if behind else None

    def _is_acknowledged(self, replica_id: ReplicaId, audience: Audience) -> bool:
        placed = self._replicas.get(replica_id)
        return placed is not None and audience.routed >= placed.added

    def _is_withdrawn(self, replica_id: ReplicaId, audience: Audience, *, settled: bool) -> bool:
        if replica_id in self._replicas or self._first is None:
            return False
        if not settled:
            return False
        gone = self._gone_replicas.get(replica_id)
        return audience.left >= (self._oldest_delta if gone is None else gone)

    def _position(self, router: RouterObserved) -> float:
        acknowledged = router.acknowledged
        return acknowledged.version if acknowledged is not None and acknowledged.epoch == self._epoch else -1

    def _knows_since(self, version: int) -> bool:
        return self._oldest_delta <= version <= self._version

    def _compare(self, key: DeploymentKey, part: TablePart) -> _PartChange:
        route = self._routes.get(key)
        wanted = {replica.replica_id: replica for replica in part.replicas}
        mine = self._members.get(key, {})
        concerned = mine.values() if part.gangs is None else (mine.get(gang_id, {}) for gang_id in part.gangs)
        return _PartChange(
            key=key,
            part=part,
            is_routed_anew=(route[0] if route is not None else None) != part.route,
            gone=[replica_id for members in concerned for replica_id in members if replica_id not in wanted],
            put=[replica for replica in wanted.values() if not self._is_as(replica)],
        )

    def _is_as(self, replica: Replica) -> bool:
        placed = self._replicas.get(replica.replica_id)
        return placed is not None and placed.replica == replica

    def _enter(self, change: _PartChange) -> None:
        key, route = change.key, change.part.route
        _append(self._touched, key, self._version)
        if change.is_routed_anew and route is not None:
            self._gone_routes.pop(key, None)
            _append(self._routes, key, (route, self._version))
        elif change.is_routed_anew:
            del self._routes[key]
            self._gone_routes[key] = self._version
        for replica_id in change.gone:
            self._leave(self._replicas.pop(replica_id).replica)
            self._gone_replicas[replica_id] = self._version
        for replica in change.put:
            self._gone_replicas.pop(replica.replica_id, None)
            before = self._replicas.get(replica.replica_id)
            added = before.added if before is not None else self._version
            _append(self._replicas, replica.replica_id, _Placed(replica, added, self._version))
            self._members.setdefault(key, {}).setdefault(replica.gang.gang_id, {})[replica.replica_id] = None

    def _leave(self, replica: Replica) -> None:
        gangs = self._members[replica.key]
        del gangs[replica.gang.gang_id][replica.replica_id]
        if not gangs[replica.gang.gang_id]:
            del gangs[replica.gang.gang_id]
        if not gangs:
            del self._members[replica.key]

    def _trim(self) -> None:
        """Forgets the oldest removals, and with them the deltas from before."""
        dropped = max(_drop_oldest(log) for log in (self._gone_routes, self._gone_replicas, self._touched))
        self._oldest_delta = max(self._oldest_delta, dropped)


@dataclass(slots=True, kw_only=True)
class _PartChange:
    """What a deployment's new part changes in the table."""

    key: DeploymentKey
    part: TablePart
    is_routed_anew: bool
    gone: list[ReplicaId] = field(default_factory=list)
    put: list[Replica] = field(default_factory=list)

    @property
    def is_any(self) -> bool:
        return bool(self.is_routed_anew or self.gone or self.put)


def _append(log: dict[K, V], key: K, value: V) -> None:
    """Puts it last, wherever it was."""
    log.pop(key, None)
    log[key] = value


def _newer(newest_first: Iterable[tuple[K, float]], since: float) -> Iterator[K]:
    """What has a version after ``since``; stops at the first that has not."""
    for what, version in newest_first:
        if version <= since:
            return
        yield what


def _drop_oldest(gone: dict[Any, int]) -> int:
    """Drops what is too much, and returns the newest version of that; 0 if nothing was."""
    newest = 0
    while len(gone) > TOMBSTONES_MAX:
        newest = gone.pop(next(iter(gone)))
    return newest
