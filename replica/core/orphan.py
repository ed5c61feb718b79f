"""When a replica that hears from no controller gives up. Times are seconds by one monotonic clock."""

from __future__ import annotations


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

    def deadline(self) -> float | None:
        """When the replica is an orphan unless it hears from a controller before; None means never."""
        return self._heard_at + self._timeout_s if self._timeout_s > 0 else None

    def orphaned(self, now: float) -> bool:
        """Whether the replica is to end."""
        deadline = self.deadline()
        return deadline is not None and now >= deadline
