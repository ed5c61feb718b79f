"""The routers' side of a controller: the real table, whom it was sent to, and what they have acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.plan import events
from serve_core.plan.plan import TableFacts
from serve_core.plan.records import GangRecord
from serve_core.plan.table import Audience, EndpointTable
from serve_core.plan.touched import Touched
from tests.simulation.network import Stream
from tests.simulation.router import Router

if TYPE_CHECKING:
    from tests.simulation.controller import Controller

VERSIONS_LEASED = 1000
ROUND_S = 0.001
ROUTER_EVENTS = (events.RouterSubscribed, events.RouterAcknowledged, events.RouterLost, events.RouterGone)


class Watcher:
    """One router's stream, and the last version that went out on it."""

    def __init__(self, stream: Stream, router: Router, sent: TableVersion | None) -> None:
        self.stream = stream
        self.router = router
        self.sent = sent


class Publisher:
    """Keeps the table in step with what is known, and routers in step with the table."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        world = self.world = controller.world
        self.table = EndpointTable(
            epoch=world.cluster.epoch,
            version=world.cluster.table_version,
            policy=controller.policy,
        )
        self._watchers: dict[RouterId, Watcher] = {}
        self._stale = controller.cluster.cores.stale()
        self._audience = Audience()
        self._is_due = False
        world.listen(self._on_event)
        world.listen_touched(self._touched)
        world.listen_saved(self._touched)

    def begin(self) -> None:
        """Publishes, at the latest when the living had their time."""
        self.refresh(())
        self.controller.later(self.controller.policy.reattach_grace_s, partial(self.refresh, ()))

    def refresh(self, keys: Iterable[DeploymentKey]) -> None:
        """These deployments' whole parts of the table may be others now."""
        self._stale.add(keys)
        self._wake()

    def _touched(self, touched: Touched) -> None:
        self._stale.touch(touched)
        self._wake()

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self.controller.later(ROUND_S, self._publish)

    def facts(self, gangs: Iterable[GangRecord]) -> TableFacts:
        """What routers know of the replicas of these gangs, now."""
        now, ends_at = self.world.now(), self._audience.ends_at
        if ends_at is not None and now >= ends_at:
            self._audience = self._sum_up()
        ids = (member.replica_id for gang in gangs for member in gang.members)
        since = self.world.observed.listening_since
        return self.controller.cluster.cores.facts(self.table, ids, self._audience, listening_since=since, now=now)

    def subscribed(self, stream: Stream, router: Router, acknowledged: TableVersion | None) -> None:
        """A router wants the table."""
        older = self._watchers.get(router.router_id)
        self._watchers[router.router_id] = Watcher(stream, router, acknowledged)
        if older is not None and older.stream is not stream:
            older.stream.close(self.controller)
        stream.on_end(self.controller, partial(self._left, stream, router))
        self.world.tell(
            events.RouterSubscribed(
                router_id=router.router_id,
                address="",
                http_address="",
                acknowledged=acknowledged,
                now=self.world.now(),
            )
        )
        self._send()

    def acknowledged(self, stream: Stream, router: Router, version: TableVersion) -> None:
        """A router routes by this table."""
        watcher = self._watchers.get(router.router_id)
        if watcher is not None and watcher.stream is stream:
            now = self.world.now()
            self.world.tell(events.RouterAcknowledged(router_id=router.router_id, acknowledged=version, now=now))

    def queued(self, stream: Stream, router: Router, queued: Mapping[DeploymentKey, int]) -> None:
        """A router tells how many requests wait in it."""
        watcher = self._watchers.get(router.router_id)
        if watcher is not None and watcher.stream is stream:
            self.world.tell(events.RouterQueued(router_id=router.router_id, queued=queued, now=self.world.now()))
            self.controller.autoscaling.queued(queued)

    def _left(self, stream: Stream, router: Router) -> None:
        watcher = self._watchers.get(router.router_id)
        if watcher is not None and watcher.stream is stream:
            del self._watchers[router.router_id]
            self.world.tell(events.RouterLost(router_id=router.router_id, now=self.world.now()))

    def _publish(self) -> None:
        self._is_due = False
        controller, world = self.controller, self.world
        now, first = world.now(), not self.table.is_published
        cores = controller.cluster.cores
        if first and cores.is_recovering(world.records, world.observed, now=now, policy=controller.policy):
            return
        if self.table.version.version >= world.cluster.table_version and not self._lease_versions():
            return
        if first:
            self._stale.add(world.records.deployments)
        before = self.table.version
        parts = self._stale.take(self.table, world.records, world.observed, now=now, policy=controller.policy)
        if not self.table.update_parts(parts):
            return
        checks = controller.cluster.checks
        change = self.table.change_since(None if checks.is_turn() else before)
        assert change is not None
        ids = sorted(replica.replica_id for replica in change.upserted_replicas)
        controller.engine.note(f"table {self.table.version.version}: {' '.join(ids)}")
        checks.published(controller, change, first=first)

        def send() -> None:
            checks.told(change)
            self._send()

        if controller.effect("publish", send):
            self._tell_touched(before.version)

    def _lease_versions(self) -> bool:
        store = self.controller.cluster.store
        leased = replace(store.cluster, table_version=self.table.version.version + VERSIONS_LEASED)
        if not self.controller.effect("lease versions", partial(setattr, store, "cluster", leased)):
            return False
        self.world.cluster = leased
        return True

    def _send(self) -> None:
        if not self.table.is_published:
            return
        for watcher in list(self._watchers.values()):
            change = self.table.change_since(watcher.sent)
            if change is not None:
                watcher.sent = change.version
                self.controller.cluster.costs.tell(change)
                watcher.stream.send(watcher.router, partial(watcher.router.told, watcher.stream, change))

    def _on_event(self, event: events.Event) -> None:
        if not isinstance(event, ROUTER_EVENTS):
            return
        before, after = self._audience, self._sum_up()
        self._audience = after
        if (before.routed, before.left) != (after.routed, after.left):
            self._tell_touched(min(before.routed, before.left, after.routed, after.left))

    def _sum_up(self) -> Audience:
        return self.table.audience(self.world.observed.routers.values(), now=self.world.now())

    def _tell_touched(self, since: float) -> None:
        keys = self.table.touched_since(since)
        self.controller.wake(tuple(self.world.records.deployments) if keys is None else keys)
