"""Who waits for room, and what is offered to whom: the oldest first, and to others what it does not need."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from serve_core.model.ids import DeploymentKey
from serve_core.plan.placement.capacity import Capacity
from serve_core.plan.record_parts import WaitRecord
from serve_core.plan.records import DeploymentRecord

CLAIMS_MAX = 32
"""Of more that wait, only the oldest hold a claim; the others get theirs as they move up."""


class Waiters:
    """The deployments that wait for room, oldest first. Has to hear of every deployment's record that changes."""

    def __init__(self, records: Iterable[DeploymentRecord] = ()) -> None:
        self._places: dict[DeploymentKey, WaitRecord] = {}
        self._order: list[tuple[float, DeploymentKey]] = []
        # What is left after the claims of the first, of the first two, and so on: as far as that was asked for.
        self._left: list[Capacity] = []
        for record in records:
            self.changed(None, record)

    def changed(self, before: DeploymentRecord | None, after: DeploymentRecord | None) -> None:
        """A deployment's record is another now, or is new, or is gone."""
        old = before.waiting if before is not None else None
        new = after.waiting if after is not None else None
        record = after or before
        if record is None or old == new:
            return
        key, firsts = record.key, []
        if old is not None:
            del self._places[key]
            firsts.append(bisect_left(self._order, (old.since, key)))
            del self._order[firsts[0]]
        if new is not None:
            self._places[key] = new
            insort(self._order, (new.since, key))
            firsts.append(bisect_left(self._order, (new.since, key)))
        del self._left[min(firsts) + 1 :]

    def in_order(self, keys: Iterable[DeploymentKey]) -> list[DeploymentKey]:
        """Those that wait longest first, then those that do not."""
        return sorted(keys, key=lambda key: (*self._rank(key), key))

    def capacity_for(self, key: DeploymentKey | None, capacity: Capacity) -> Capacity:
        """What is offered to a deployment, to be used up: what is free, but for what those that wait longer need of it.

        To one that does not wait yet, or to None, it is what nobody who waits needs.
        """
        place = self._places.get(key) if key is not None else None
        older = len(self._order) if place is None or key is None else bisect_left(self._order, (place.since, key))
        return capacity.fork_less(lambda free: self._less(free, older)) if older else capacity.fork()

    def _less(self, capacity: Capacity, older: int) -> Capacity:
        """What the claims of the oldest leave."""
        if not self._left or not self._left[0].is_as(capacity):
            self._left = [capacity.fork()]
        for number in range(len(self._left), min(older, CLAIMS_MAX) + 1):
            left = self._left[-1].fork()
            _, waiting = self._order[number - 1]
            left.hold_back(waiting, self._places[waiting].request)
            self._left.append(left)
        return self._left[min(older, CLAIMS_MAX)]

    def _rank(self, key: DeploymentKey) -> tuple[bool, float]:
        place = self._places.get(key)
        return place is None, place.since if place is not None else 0.0
