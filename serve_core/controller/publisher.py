"""The streams of routers: the endpoint table one way, acknowledgements the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from serve_core.controller.persistence import RecordStore
from serve_core.controller.world import World
from serve_core.errors import ConfigInvalidError, DrainingError, FieldViolation
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.plan.endpoints import is_recovering
from serve_core.plan.events import (
    Event,
    RouterAcknowledged,
    RouterGone,
    RouterLost,
    RouterQueued,
    RouterSubscribed,
)
from serve_core.plan.plan import TableFacts
from serve_core.plan.policy import Policy
from serve_core.plan.records import GangRecord
from serve_core.plan.stale import Stale
from serve_core.plan.table import Audience, EndpointTable
from serve_core.plan.touched import Touched
from serve_core.runtime import log
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2
from serve_core.wire.autoscaling import decode_queues
from serve_core.wire.endpoints import decode_table_version, encode_table_change

VERSIONS_LEASED = 1000
"""Table versions that are recorded ahead, so that publishing seldom waits for the disk."""

PublishListener = Callable[[Collection[DeploymentKey]], None]

_log = log.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Stream:
    """One router's stream. ``sent`` is the last version that went out on it."""

    router_id: RouterId
    sent: TableVersion | None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    in_good_order: bool = False

    def end(self, *, in_good_order: bool) -> None:
        """Lets the stream end."""
        self.ended = True
        self.in_good_order = in_good_order
        self.wake.set()


class Publisher:
    """Keeps the table in step with the world, and routers in step with the table.

    Args:
        world: What the table is built from; is told of routers.
        store: Where versions are recorded before they are used.
        policy: How long to wait for the living after a start.
        hello_timeout_s: What a stream has for its first message.
        before_publishing: Called before anyone's silence is judged.
    """

    def __init__(
        self,
        world: World,
        store: RecordStore,
        *,
        policy: Policy,
        hello_timeout_s: float,
        before_publishing: Callable[[], None] = lambda: None,
    ) -> None:
        self._world = world
        self._store = store
        self._policy = policy
        self._hello_timeout_s = hello_timeout_s
        self._before_publishing = before_publishing
        self._table = EndpointTable(
            epoch=world.cluster.epoch,
            version=world.cluster.table_version,
            policy=policy,
        )
        self._streams: dict[RouterId, _Stream] = {}
        self._on_published: list[PublishListener] = []
        self._stale = Stale()
        self._woken = asyncio.Event()
        self._audience = Audience()
        self._closing = False
        world.listen(self._on_event)
        world.listen_touched(self._on_touched)
        world.listen_saved(self._on_touched)

    @property
    def version(self) -> TableVersion:
        """The table's version."""
        return self._table.version

    @property
    def is_stale(self) -> bool:
        """Whether something happened that may change the table."""
        return bool(self._stale)

    def listen(self, listener: PublishListener) -> None:
        """Calls ``listener`` with the deployments whose routers know something else than before: of a new version, or by
        acknowledging one.
        """
        self._on_published.append(listener)

    def refresh(self, keys: Iterable[DeploymentKey]) -> None:
        """These deployments' whole parts of the table may be others now."""
        self._stale.add(keys)
        self._woken.set()

    def facts(self, gangs: Iterable[GangRecord]) -> TableFacts:
        """What routers know of the replicas of these gangs, now."""
        now = self._world.now()
        ends_at = self._audience.ends_at
        if ends_at is not None and now >= ends_at:
            self._audience = self._sum_up()
        replica_ids = (member.replica_id for gang in gangs for member in gang.members)
        listening_since = self._world.observed.listening_since
        return self._table.facts_for(replica_ids, self._audience, listening_since=listening_since, now=now)

    async def run(self) -> None:
        """Publishes what changes, until cancelled."""
        while True:
            self._woken.clear()
            await self.publish()
            await self._wait()

    async def serve(
        self, requests: AsyncIterator[controller_pb2.WatchEndpointsRequest]
    ) -> AsyncGenerator[controller_pb2.WatchEndpointsResponse, None]:
        """One router's stream.

        Raises:
            ConfigInvalidError: It does not begin with a subscription.
            DrainingError: The controller ends.
        """
        stream = self._open(await self._read_first(requests))
        try:
            async with Supervisor(f"watch {stream.router_id}") as tasks:
                tasks.spawn(self._listen(stream, requests), name="listen")
                async for change in self._changes(stream):
                    yield change
        finally:
            self._lose(stream)

    def close(self) -> None:
        """Ends every stream, and takes no new one."""
        self._closing = True
        for stream in tuple(self._streams.values()):
            stream.end(in_good_order=False)

    async def _wait(self) -> None:
        waiting = not self._table.is_published
        until = self._world.observed.listening_since + self._policy.reattach_grace_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - self._world.now()) if waiting else None):
                await self._woken.wait()

    async def publish(self) -> None:
        """Publishes what has changed, unless it is too early for a first table."""
        world = self._world
        if not self._table.is_published and is_recovering(
            world.records, world.observed, now=world.now(), policy=self._policy
        ):
            return
        if self._table.version.version >= world.cluster.table_version:
            await self._lease_versions()
        # Nothing waits from here on: no stream sees a version that is not recorded.
        self._before_publishing()
        if not self._table.is_published:
            self.refresh(world.records.deployments)
        before = self._table.version.version
        parts = self._stale.take(self._table, world.records, world.observed, now=world.now(), policy=self._policy)
        if not self._table.update_parts(parts):
            return
        _log.info(
            "published", version=self._table.version.version, replicas=len(self._table), routers=len(self._streams)
        )
        for stream in self._streams.values():
            stream.wake.set()
        self._tell_touched(before)

    def _on_touched(self, touched: Touched) -> None:
        """Something happened to these, or their records are others."""
        self._stale.touch(touched)
        self._woken.set()

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, RouterSubscribed | RouterAcknowledged | RouterLost | RouterGone):
            return
        before, after = self._audience, self._sum_up()
        self._audience = after
        if (before.routed, before.left) != (after.routed, after.left):
            self._tell_touched(min(before.routed, before.left, after.routed, after.left))

    def _sum_up(self) -> Audience:
        return self._table.audience(self._world.observed.routers.values(), now=self._world.now())

    def _tell_touched(self, since: float) -> None:
        """Tells of the deployments whose parts have changed after a version."""
        keys = self._table.touched_since(since)
        if keys is None:
            keys = tuple(self._world.records.deployments)
        for listener in self._on_published:
            listener(keys)

    async def _lease_versions(self) -> None:
        cluster = replace(self._world.cluster, table_version=self._table.version.version + VERSIONS_LEASED)
        await self._store.save_cluster(cluster)
        self._world.cluster = cluster

    async def _read_first(
        self, requests: AsyncIterator[controller_pb2.WatchEndpointsRequest]
    ) -> controller_pb2.WatchEndpointsRequest:
        if self._closing:
            raise DrainingError("the controller ends; subscribe to the next one", retry_after_s=1.0)
        try:
            async with asyncio.timeout(self._hello_timeout_s):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        if first is None or not first.router_id:
            raise ConfigInvalidError([FieldViolation("router_id", "must be in the first message")], what="the stream")
        return first

    def _open(self, first: controller_pb2.WatchEndpointsRequest) -> _Stream:
        router_id = RouterId(first.router_id)
        acknowledged = decode_table_version(first.acknowledged) if first.HasField("acknowledged") else None
        older = self._streams.get(router_id)
        stream = self._streams[router_id] = _Stream(router_id, acknowledged)
        if older is not None:
            older.end(in_good_order=False)
        _log.info("router subscribed", router=router_id, address=first.address)
        self._world.tell(
            RouterSubscribed(
                router_id=router_id,
                address=first.address,
                http_address=first.http_address,
                acknowledged=acknowledged,
                now=self._world.now(),
            )
        )
        return stream

    async def _changes(self, stream: _Stream) -> AsyncIterator[controller_pb2.WatchEndpointsResponse]:
        while not stream.ended:
            stream.wake.clear()
            change = self._table.change_since(stream.sent) if self._table.is_published else None
            if change is not None:
                stream.sent = change.version
                yield encode_table_change(change)
                continue
            await stream.wake.wait()

    async def _listen(self, stream: _Stream, requests: AsyncIterator[controller_pb2.WatchEndpointsRequest]) -> None:
        async for request in requests:
            if self._streams.get(stream.router_id) is not stream:
                return
            if request.HasField("acknowledged"):
                self._world.tell(
                    RouterAcknowledged(
                        router_id=stream.router_id,
                        acknowledged=decode_table_version(request.acknowledged),
                        now=self._world.now(),
                    )
                )
            if request.HasField("queues"):
                queued = decode_queues(request.queues)
                self._world.tell(RouterQueued(router_id=stream.router_id, queued=queued, now=self._world.now()))
        stream.end(in_good_order=True)

    def _lose(self, stream: _Stream) -> None:
        # A newer stream of the same router has taken its place: then nothing was lost.
        if self._streams.get(stream.router_id) is not stream:
            return
        del self._streams[stream.router_id]
        now = self._world.now()
        _log.info("router left", router=stream.router_id, in_good_order=stream.in_good_order)
        if stream.in_good_order:
            self._world.tell(RouterGone(router_id=stream.router_id, now=now))
        else:
            self._world.tell(RouterLost(router_id=stream.router_id, now=now))
