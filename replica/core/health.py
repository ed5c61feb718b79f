"""Whether a replica is ill: so many failed checks in a row, and not fewer."""

from __future__ import annotations


class Health:
    """Counts failed checks in a row; one that passes makes it well again.

    Args:
        failure_threshold: Failed checks in a row that make it ill; at least 1.
    """

    def __init__(self, *, failure_threshold: int) -> None:
        self._failures = 0
        self._failure_threshold = max(1, failure_threshold)

    @property
    def healthy(self) -> bool:
        """Whether fewer checks failed in a row than make it ill."""
        return self._failures < self._failure_threshold

    @property
    def failures(self) -> int:
        """Checks that failed in a row."""
        return self._failures

    def passed(self) -> bool:
        """A check passed. True if that made it well."""
        was_healthy = self.healthy
        self._failures = 0
        return not was_healthy

    def failed(self) -> bool:
        """A check failed or took too long. True if that made it ill."""
        was_healthy = self.healthy
        self._failures += 1
        return was_healthy and not self.healthy

    def limit(self, failure_threshold: int) -> bool:
        """Changes the threshold, live. True if that changed whether it is healthy."""
        was_healthy = self.healthy
        self._failure_threshold = max(1, failure_threshold)
        return was_healthy is not self.healthy
