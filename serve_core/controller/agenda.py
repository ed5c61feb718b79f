"""What is to be planned, and when: plain data, and each thing it is asked costs what it is about."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from serve_core.model.ids import DeploymentKey


class Agenda:
    """Deployments that something happened to, in the order in which it did, and times at which others are due."""

    def __init__(self) -> None:
        # A dict, because sets have no order.
        self._due: dict[DeploymentKey, None] = {}
        self._times: dict[DeploymentKey, float] = {}
        # May hold what is out of date: the times are what counts.
        self._heap: list[tuple[float, DeploymentKey]] = []

    @property
    def is_due(self) -> bool:
        """Whether something happened."""
        return bool(self._due)

    def add(self, keys: Iterable[DeploymentKey]) -> None:
        """Something happened to these; several times is once."""
        self._due.update(dict.fromkeys(keys))

    def put(self, key: DeploymentKey, time: float | None) -> None:
        """A deployment is due at this time, and no more at another; at none, if that is None."""
        if time is None:
            self._times.pop(key, None)
        elif self._times.get(key) != time:
            self._times[key] = time
            heapq.heappush(self._heap, (time, key))

    def next_time(self) -> float | None:
        """When the first deployment is due."""
        while self._heap:
            time, key = self._heap[0]
            if self._times.get(key) == time:
                return time
            heapq.heappop(self._heap)
        return None

    def take(self, now: float) -> list[DeploymentKey]:
        """What is due now, and is on the agenda no more."""
        while (time := self.next_time()) is not None and time <= now:
            _, key = heapq.heappop(self._heap)
            self._due[key] = None
        due = list(self._due)
        self._due.clear()
        for key in due:
            self._times.pop(key, None)
        return due
