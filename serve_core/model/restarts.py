"""Whether a process that ended is started again, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_core.model.backoff import Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often a process may end before it is left alone. Times are seconds.

    Attributes:
        restarts_max: How many restarts there are within ``window_s`` at most.
        window_s: How long an end counts.
        backoff: The delay before each restart, by how many there were within ``window_s``.
    """

    restarts_max: int = 5
    window_s: float = 60.0
    backoff: Backoff = field(default_factory=lambda: Backoff(initial_s=0.1, factor=2.0, max_s=5.0, jitter=0.5))

    def delay_s(self, ends: Sequence[float], *, now: float, unit_random: float) -> float | None:
        """Seconds to wait before the next start, or None if the process is not to be started again.

        Args:
            ends: When it ended unasked, the last one now, in monotonic seconds.
            now: Monotonic seconds.
            unit_random: A random number from 0 to 1.
        """
        counted = sum(1 for end in ends if now - end < self.window_s)
        if counted > self.restarts_max:
            return None
        return self.backoff.delay_s(max(0, counted - 1), unit_random)
