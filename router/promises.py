"""Which replicas promised slots to a request by its caller's id, so that the same id again gets the same promise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from router.fleet import Fleet
from router.reserving import Reserving
from router.upstream import Upstream
from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.slots import Lease

PROMISES_MAX = 10_000
"""Ids that are remembered; the oldest are forgotten first."""

Ask = Callable[[Upstream], Awaitable[Lease]]


class Promise(NamedTuple):
    """One replica's promise, and the connection to that replica."""

    lease: Lease
    upstream: Upstream


class Promises:
    """Remembers who was asked for a request id. Whether the promise lives, the replicas say: they know the id, too.

    Args:
        fleet: The connections to replicas.
        reserving: The slot calls.
    """

    def __init__(self, fleet: Fleet, reserving: Reserving) -> None:
        self._fleet = fleet
        self._reserving = reserving
        self._known: dict[tuple[DeploymentKey, str], tuple[tuple[ReplicaId, str], ...]] = {}

    def remember(self, key: DeploymentKey, request_id: str, promises: Sequence[Promise]) -> None:
        """Notes who promised; nothing for a request without an id."""
        if not request_id:
            return
        self._known.pop((key, request_id), None)
        self._known[key, request_id] = tuple(
            (one.upstream.replica.replica_id, str(one.lease.token)) for one in promises
        )
        if len(self._known) > PROMISES_MAX:
            del self._known[next(iter(self._known))]

    async def again(self, key: DeploymentKey, request_id: str, ask: Ask) -> tuple[Promise, ...] | None:
        """The promises that this id has, in the order in which they were noted; None if it has none, or they do not all live."""
        found: list[Promise] = []
        for replica_id, token in self._known.get((key, request_id), ()):
            upstream = self._fleet.find(replica_id)
            promise = await self._ask(upstream, ask) if upstream is not None and upstream.connected else None
            if promise is None:
                return None
            if str(promise.lease.token) != token:
                await self._reserving.give_back(promise.upstream, str(promise.lease.token))
                return None
            found.append(promise)
        return tuple(found) or None

    async def _ask(self, upstream: Upstream, ask: Ask) -> Promise | None:
        try:
            with upstream.use():
                return Promise(await ask(upstream), upstream)
        except ServeError:
            return None  # It is asked for as if for the first time.
