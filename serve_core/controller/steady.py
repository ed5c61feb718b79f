"""The controller's clock: seconds since the Unix epoch that never jump while the process lives."""

from __future__ import annotations

from collections.abc import Callable

from serve_core.runtime import clock

Clock = Callable[[], float]
"""Gives the time, in seconds."""


class SteadyClock:
    """The wall clock as of its making, plus the monotonic time since: fit for records, and for comparing."""

    def __init__(self) -> None:
        self._base_s = clock.wall() - clock.monotonic()

    def __call__(self) -> float:
        return self._base_s + clock.monotonic()
