"""The connections to the replicas in the table, and to those that left it with work inside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from router.admission import Admission, Member
from router.core.load import ReplicaLoad
from router.upstream import Upstream
from serve_core.errors import ReplicaUnavailableError
from serve_core.model.ids import OwnerId, ReplicaId, RouterId
from serve_core.model.replica import Replica
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor

CONNECT_TIMEOUT_S = 2.0
"""A replica that left the table before its channel was READY is given up after this."""


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    upstream: Upstream
    load: ReplicaLoad
    admission: Admission
    watch: asyncio.Task[None]


class Fleet:
    """Opens and closes connections as replicas come into the table and leave it.

    Args:
        router_id: Names this router to replicas.
        tasks: Owns the tasks that watch them.
        max_message_bytes: The largest message that passes.
        unit_random: Random numbers from 0 to below 1.
    """

    def __init__(
        self, *, router_id: RouterId, tasks: Supervisor, max_message_bytes: int, unit_random: Callable[[], float]
    ) -> None:
        self._router_id = router_id
        self._tasks = tasks
        self._max_message_bytes = max_message_bytes
        self._unit_random = unit_random
        self._current: dict[ReplicaId, _Connection] = {}
        self._by_load: dict[ReplicaLoad, _Connection] = {}
        self._watches = count(1)

    def add(self, replica: Replica, admission: Admission) -> None:
        """Connects to a replica, and lets ``admission`` choose it once it is."""
        before = self._current.get(replica.replica_id)
        if before is not None and not before.load.gone:
            return
        load = admission.lane.add(replica.replica_id, replica.gang)
        upstream = Upstream(
            replica,
            new_owner=self._new_owner,
            max_message_bytes=self._max_message_bytes,
            observer=Member(admission, load),
            unit_random=self._unit_random,
        )
        watch = self._tasks.spawn(upstream.watch(), name=f"watch {replica.replica_id}")
        connection = _Connection(upstream, load, admission, watch)
        self._current[replica.replica_id] = self._by_load[load] = connection
        if before is not None:
            self._tasks.spawn(self._succeed(before), name=f"succeed {replica.replica_id}")

    def drop(self, replica_id: ReplicaId, *, unless: Replica | None = None) -> None:
        """Sends nothing new to a replica. Its channel closes after the last call on it, once it drains and holds no promise.

        Until then a token may come that another router was promised. A replica that drains waits for the calls on their way.

        Args:
            replica_id: The replica.
            unless: What the table says of it now, if it is still there: where and in which life it is decides
                whether the connection is kept.
        """
        connection = self._current.get(replica_id)
        if connection is None or connection.load.gone:
            return
        known = connection.upstream.replica
        if unless is not None and (known.key, known.address, known.epoch) == (unless.key, unless.address, unless.epoch):
            connection.upstream.replica = unless
            connection.admission.lane.regroup(connection.load, unless.gang)
            return
        connection.admission.lane.remove(connection.load)
        self._tasks.spawn(self._retire(connection), name=f"retire {replica_id}")

    def find(self, replica_id: ReplicaId) -> Upstream | None:
        """The connection to a replica, also to one that left the table while its channel is still open."""
        connection = self._current.get(replica_id)
        return connection.upstream if connection is not None else None

    def ongoing(self) -> Iterator[tuple[Replica, int]]:
        """Each replica that a channel is open to, and the calls on their way there, those to an earlier life of it too."""
        calls: Counter[ReplicaId] = Counter()
        for connection in self._by_load.values():
            calls[connection.load.replica_id] += connection.upstream.ongoing
        for replica_id, connection in self._current.items():
            yield connection.upstream.replica, calls[replica_id]

    def leased_until(self) -> float:
        """Monotonic seconds until which any token that was reserved through here may live."""
        return max((connection.upstream.leased_until for connection in self._by_load.values()), default=0.0)

    def upstream_if_open(self, load: ReplicaLoad) -> Upstream | None:
        """The connection that an estimate belongs to; None if it is closed."""
        connection = self._by_load.get(load)
        return None if connection is None else connection.upstream

    def upstream_of(self, load: ReplicaLoad) -> Upstream:
        """The connection that an estimate belongs to.

        Raises:
            ReplicaUnavailableError: It is closed.
        """
        connection = self._by_load.get(load)
        if connection is None:
            raise ReplicaUnavailableError(
                f"replica {load.replica_id} has left this router's table; nothing was run, reserve again",
                details={"replicaId": load.replica_id},
            )
        return connection.upstream

    async def close(self) -> None:
        """Closes every channel."""
        for connection in list(self._by_load.values()):
            await self._close(connection)

    def _new_owner(self) -> OwnerId:
        return OwnerId(f"{self._router_id}.{next(self._watches)}")

    async def _retire(self, connection: _Connection) -> None:
        """Closes it when its replica has nothing left of what it promised to anybody, or cannot be reached."""
        upstream = connection.upstream
        try:
            if not upstream.connected:
                await upstream.ready(CONNECT_TIMEOUT_S)
        except ReplicaUnavailableError:
            pass  # Nor can a token be sent there.
        else:
            await upstream.promises_void.wait()
        await upstream.idle()
        await self._close(connection)

    async def _succeed(self, connection: _Connection) -> None:
        """Closes it after the last lease from it: tokens of others go over the newer connection."""
        upstream = connection.upstream
        await upstream.idle()
        while not upstream.promises_void.is_set() and (lease_s := upstream.leased_until - monotonic()) > 0:
            try:
                async with asyncio.timeout(lease_s):
                    await upstream.promises_void.wait()
            except TimeoutError:
                continue
        await upstream.idle()
        await self._close(connection)

    async def _close(self, connection: _Connection) -> None:
        if self._by_load.pop(connection.load, None) is None:
            return
        if self._current.get(connection.upstream.replica.replica_id) is connection:
            del self._current[connection.upstream.replica.replica_id]
        connection.watch.cancel()
        await connection.upstream.close()
