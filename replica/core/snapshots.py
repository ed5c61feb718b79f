"""When an actor saves its state: by time, and whenever it is asked to. Times are seconds by one monotonic clock."""

from __future__ import annotations

from collections import deque

BY_TIME = 0
"""In place of the number of a request: the state is due by time, or is the last one."""

REQUESTS_MAX = 64
"""Requests that may wait; whoever asks beyond that is not answered, and may ask again."""


class SnapshotTimes:
    """What is due next.

    Args:
        now: When the actor became ready: the first interval begins.
    """

    def __init__(self, *, now: float) -> None:
        self._interval_s = 0.0
        self._began_at = now
        self._retry_s = 0.0
        self._requests: deque[int] = deque()

    def every(self, interval_s: float) -> None:
        """Saves at least every so many seconds; 0 means never by time."""
        self._interval_s = interval_s

    def ask(self, request: int) -> bool:
        """Somebody asks for the state, under this number. False if too many wait already."""
        if request not in self._requests:
            if len(self._requests) >= REQUESTS_MAX:
                return False
            self._requests.append(request)
        return True

    def forget_requests(self) -> None:
        """Whoever asked is gone: another controller counts its requests anew."""
        self._requests.clear()

    def take(self, now: float) -> int | None:
        """What is due: the number of a request, ``BY_TIME``, or None if nothing is."""
        if self._requests:
            return self._requests.popleft()
        deadline = self.deadline()
        return BY_TIME if deadline is not None and now >= deadline else None

    def deadline(self) -> float | None:
        """When something is due by time; None is never."""
        if self._interval_s <= 0:
            return None
        return self._began_at + min(self._interval_s, self._retry_s or self._interval_s)

    def saved(self, began_at: float) -> None:
        """The state of that second is stored."""
        self._began_at = began_at
        self._retry_s = 0.0

    def failed(self, now: float, *, retry_s: float) -> None:
        """It could not be stored: the next try by time is after ``retry_s`` seconds, or an interval if that is shorter."""
        self._began_at = now
        self._retry_s = retry_s
