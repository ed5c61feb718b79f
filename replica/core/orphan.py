"""When a replica that hears from no controller gives up. Times are seconds by one monotonic clock."""

from __future__ import annotations

_WORDS_PER_TIMEOUT = 4


class OrphanWatch:
    """Counts how long no controller was heard.

    Args:
        timeout_s: How long that may be; 0 means for ever.
        now: When the process started.
    """

    def __init__(self, *, timeout_s: float, now: float) -> None:
        self._timeout_s = timeout_s
        self._heard_at = now

    def heard(self, now: float) -> None:
        """A controller said something."""
        self._heard_at = now

    def wants_word(self, now: float) -> bool:
        """Whether to ask the controller for a word, as it would have nothing to say by itself: several times per timeout."""
        return self._timeout_s > 0 and now >= self._heard_at + self._timeout_s / _WORDS_PER_TIMEOUT

    def deadline(self) -> float | None:
        """When the replica is an orphan unless it hears from a controller before; None means never."""
        return self._heard_at + self._timeout_s if self._timeout_s > 0 else None

    def orphaned(self, now: float) -> bool:
        """Whether the replica is to end."""
        deadline = self.deadline()
        return deadline is not None and now >= deadline
