"""Time that passes when the test says so."""

from __future__ import annotations


class FakeClock:
    """A clock to be passed where one is wanted: call it for the time, in seconds; ``advance`` makes time pass."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Lets time pass and returns the new time; time does not go back."""
        if seconds < 0:
            raise ValueError(f"time does not go back, not even by {-seconds} s")
        self._now += seconds
        return self._now
