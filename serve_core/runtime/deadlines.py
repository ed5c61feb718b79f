"""The deadlines of many calls, by one timer of the event loop."""

from __future__ import annotations

import asyncio
from typing import Protocol

from serve_core.runtime.clock import monotonic

TICK_S = 0.005
"""What is due happens so much late at most, beside what the event loop is late; never early."""

_DELAY_MAX_S = 86_400.0
_NEVER = 1 << 62


class Late(Protocol):
    """What has a deadline."""

    def overdue(self) -> None:
        """It is over, or was cleared a moment ago."""


class Deadlines:
    """Tells whoever has not cleared its deadline in time.

    Nearly all do, so that setting and clearing one is what has to cost little: what is due within one tick is in one place,
    and the timer is only moved for a deadline that comes before all others.

    Args:
        loop: The event loop.
    """

    __slots__ = ("_loop", "_next", "_ticks", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, dict[Late, None]] = {}
        self._next = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._ticks.values()))

    def set(self, delay_s: float, late: Late) -> int:
        """Has ``late`` told in so many seconds. Returns what ``clear`` takes, which is above 0."""
        tick = int((monotonic() + delay_s) / TICK_S) + 1
        waiting = self._ticks.get(tick)
        if waiting is None:
            self._ticks[tick] = {late: None}
            if tick < self._next:
                self._arm(tick)
        else:
            waiting[late] = None
        return tick

    def clear(self, tick: int, late: Late) -> None:
        """``late`` is not to be told. Nothing if it was."""
        waiting = self._ticks.get(tick)
        if waiting is not None:
            waiting.pop(late, None)
            if not waiting:
                del self._ticks[tick]

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        delay_s = min(_DELAY_MAX_S, max(0.001, tick * TICK_S - monotonic()))
        self._timer = self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._timer, self._next = None, _NEVER
        now = int(monotonic() / TICK_S)
        for tick in sorted(tick for tick in self._ticks if tick <= now):
            for late in self._ticks.pop(tick):
                self._loop.call_soon(late.overdue)
        if self._ticks:
            self._arm(min(self._ticks))
