"""How long promises hold, and which ends first. Times are seconds by one monotonic clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How long promises hold: ``default_s`` seconds when nothing is asked for, never more than ``max_s``."""

    default_s: float
    max_s: float

    def granted_s(self, asked_s: float | None) -> float:
        """The time to live for a promise that was asked to hold for ``asked_s`` seconds."""
        wanted_s = self.default_s if asked_s is None or asked_s <= 0 else asked_s
        return wanted_s if wanted_s < self.max_s else self.max_s


class LeaseQueue:
    """When each promise ends, by its secret."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self.soonest = _NEVER
        """No lease ends before this: to be looked at before anything else is. Ends that were moved or removed may make it too early."""

    def __len__(self) -> int:
        return len(self._ends)

    def set(self, secret: str, expires_at: float) -> None:
        """Starts a lease, or moves its end."""
        self._ends[secret] = expires_at
        # Ends that were moved or removed stay in the heap until they surface: rebuild it when they outnumber the rest.
        if len(self._heap) > 2 * len(self._ends) + 64:
            self._heap = [(end, name) for name, end in self._ends.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (expires_at, secret))
        self.soonest = self._heap[0][0]

    def remove(self, secret: str) -> None:
        """Forgets a lease, if it is there."""
        self._ends.pop(secret, None)

    def due(self, now: float) -> list[str]:
        """Removes the leases that are over and names them, the earliest first."""
        over = []
        while (end := self.deadline()) is not None and end <= now:
            secret = heapq.heappop(self._heap)[1]
            del self._ends[secret]
            over.append(secret)
        return over

    def deadline(self) -> float | None:
        """When the next lease ends, or None if there is none."""
        while self._heap:
            end, secret = self._heap[0]
            if self._ends.get(secret) == end:
                self.soonest = end
                return end
            heapq.heappop(self._heap)
        self.soonest = _NEVER
        return None
