"""What the controller knows: its records, and what it has seen. Everyone reads it; events and the loop change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_core.controller.steady import Clock
from serve_core.model.ids import DeploymentKey
from serve_core.plan.eventlog import EventLog
from serve_core.plan.events import Event, NodesSeen
from serve_core.plan.fold import fold
from serve_core.plan.observed import Observed
from serve_core.plan.persistent import differences
from serve_core.plan.placement import Capacity, Waiters
from serve_core.plan.policy import Policy
from serve_core.plan.records import ClusterRecord, Records
from serve_core.plan.settled import SettledGangs
from serve_core.plan.touched import Touched, gang_of_event, touched_by_event, touched_by_records

Listener = Callable[[Event], None]
TouchListener = Callable[[Touched], None]


class World:
    """The current records and observations, and who wants to hear of changes.

    Args:
        cluster: The life of the store.
        records: What is persisted, as loaded.
        now: The controller's clock.
        events: What happened before, as loaded.
        policy: How long silence is taken for life.
    """

    def __init__(
        self,
        *,
        cluster: ClusterRecord,
        records: Records,
        now: Clock,
        events: EventLog | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.cluster = cluster
        self.records = records.indexed()
        self.events = events or EventLog()
        self.now = now
        self.observed = Observed(listening_since=now())
        self.capacity = Capacity((), ())
        self.waiters = Waiters(records.deployments.values())
        self.changed = Pulse()
        self._policy = policy or Policy()
        self.settled = SettledGangs(self._policy)
        self._listeners: list[Listener] = []
        self._on_touched: list[TouchListener] = []
        self._on_saved: list[TouchListener] = []

    def capacity_for(self, key: DeploymentKey) -> Capacity:
        """What is offered to a deployment, to be used up."""
        return self.waiters.capacity_for(key, self.capacity)

    def listen(self, listener: Listener) -> None:
        """Calls ``listener`` with every event, right after it was folded in. It must not wait."""
        self._listeners.append(listener)

    def listen_touched(self, listener: TouchListener) -> None:
        """Calls ``listener`` with the deployments that an event matters to, if there are any. It must not wait."""
        self._on_touched.append(listener)

    def listen_saved(self, listener: TouchListener) -> None:
        """Calls ``listener`` with the deployments whose records are others. It must not wait."""
        self._on_saved.append(listener)

    def tell(self, event: Event) -> None:
        """Something happened."""
        before, self.observed = self.observed, fold(self.observed, event)
        if isinstance(event, NodesSeen):
            self._count_anew()
        self.settled.heard(event, self.records)
        for listener in self._listeners:
            listener(event)
        keys = tuple(touched_by_event(event, self.records, before, policy=self._policy))
        if keys:
            gang_id = gang_of_event(event)
            touched = dict.fromkeys(keys, (gang_id,) if gang_id is not None else None)
            for touch_listener in self._on_touched:
                touch_listener(touched)
        self.changed.beat()

    def replace_records(self, records: Records, events: EventLog | None = None) -> None:
        """Other records hold, and are saved; so are these events, if there are new ones."""
        before, self.records = self.records, records
        self.events = events or self.events
        for gang in differences(before.gangs, records.gangs):
            self.capacity.change(gang.before, gang.after)
            self.settled.changed(gang.before, gang.after)
        for deployment in differences(before.deployments, records.deployments):
            self.waiters.changed(deployment.before, deployment.after)
        if before.nodes != records.nodes:
            self._count_anew()
        touched = touched_by_records(before, records)
        for listener in self._on_saved:
            listener(touched)
        self.changed.beat()

    def _count_anew(self) -> None:
        """What is free, where other nodes are there, or to be placed on."""
        nodes, gangs = self.observed.nodes.values(), self.records.gangs.values()
        self.capacity = Capacity(nodes, gangs, draining=self.records.nodes)


class Pulse:
    """Wakes everyone who waits, each time; who was busy meanwhile is told by the count that it missed something."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def beat(self) -> None:
        """Wakes everyone."""
        self.count += 1
        woken, self._next = self._next, asyncio.Event()
        woken.set()

    async def after(self, count: int) -> int:
        """Waits until there were more beats than ``count``, and returns how many there were."""
        while self.count <= count:
            await self._next.wait()
        return self.count
