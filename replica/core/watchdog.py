"""How late the event loop is, by questions that a thread puts to it. Times are seconds by one monotonic clock.

The thread asks, the loop answers: the time between is the loop's lag. A question that stays open for long means that
something blocks the loop, unless the thread itself did not run either: then the whole process stood still.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

INTERVAL_MIN_S = 0.01
INTERVAL_MAX_S = 1.0
_LOOKS_PER_LIMIT = 3


def interval_s(late_after_s: float) -> float:
    """Seconds between two looks at a loop that is late after so many: several within them, so that it is found out soon.

    Not more: in a process at rest, waking the thread and the loop is a large part of what is done at all.
    """
    return min(max(late_after_s / _LOOKS_PER_LIMIT, INTERVAL_MIN_S), INTERVAL_MAX_S)


class Finding(Enum):
    """What a look at the loop shows, each once per incident."""

    FINE = "fine"
    """Nothing new."""
    STUCK = "stuck"
    """The loop has not answered for too long, though the thread runs."""
    PAUSED = "paused"
    """The thread itself did not run for too long: the process was stopped or starved, or native code kept others out."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look shows, and for how many seconds that has been so."""

    finding: Finding
    for_s: float = 0.0


FINE = Look(Finding.FINE)


class Watchdog:
    """Measures one loop's lag.

    Args:
        late_after_s: Longer than this and the loop is stuck, or the process was paused.
    """

    def __init__(self, *, late_after_s: float) -> None:
        self._late_after_s = late_after_s
        self._looked_at: float | None = None
        self._asked_at: float | None = None
        self._waits_since = 0.0
        self._told = False
        self._longest_s = 0.0

    def limit(self, late_after_s: float) -> None:
        """Changes the limit, live."""
        self._late_after_s = late_after_s

    def look(self, now: float) -> Look:
        """The thread looks: call it at every turn of the thread, before ``ask``."""
        slept_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if slept_s > self._late_after_s:
            # While the process stood still the loop could not answer either: its time counts from now.
            self._waits_since = now
            self._told = False
            return Look(Finding.PAUSED, slept_s)
        if self._asked_at is None or self._told or now - self._waits_since <= self._late_after_s:
            return FINE
        self._told = True
        return Look(Finding.STUCK, now - self._asked_at)

    def ask(self, now: float) -> bool:
        """Whether the thread is to put a question to the loop now; not while one is open."""
        if self._asked_at is not None:
            return False
        self._asked_at = self._waits_since = now
        return True

    def answer(self, now: float) -> float:
        """The loop answers. Returns how late it was."""
        if self._asked_at is None:
            return 0.0
        lag_s = max(0.0, now - self._asked_at)
        self._longest_s = max(self._longest_s, lag_s)
        self._asked_at = None
        self._told = False
        return lag_s

    def take_lag_s(self, now: float) -> float:
        """The longest lag since this was called last, that of an open question included."""
        longest_s = max(self._longest_s, 0.0 if self._asked_at is None else now - self._asked_at)
        self._longest_s = 0.0
        return longest_s
