"""What the controller knows: its records, and what it has seen. Everyone reads it; events and the loop change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_core.controller.steady import Clock
from serve_core.plan.events import Event
from serve_core.plan.fold import fold
from serve_core.plan.observed import Observed
from serve_core.plan.records import ClusterRecord, Records

Listener = Callable[[Event], None]


class World:
    """The current records and observations, and who wants to hear of changes.

    Args:
        cluster: The life of the store.
        records: What is persisted, as loaded.
        now: The controller's clock.
    """

    def __init__(self, *, cluster: ClusterRecord, records: Records, now: Clock) -> None:
        self.cluster = cluster
        self.records = records
        self.now = now
        self.observed = Observed(listening_since=now())
        self.changed = Pulse()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Calls ``listener`` with every event, right after it was folded in. It must not wait."""
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Something happened."""
        self.observed = fold(self.observed, event)
        for listener in self._listeners:
            listener(event)
        self.changed.beat()

    def replace_records(self, records: Records) -> None:
        """Other records hold, and are saved."""
        self.records = records
        self.changed.beat()


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
