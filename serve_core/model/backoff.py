"""How long to wait before the next try."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with jitter, as a value: the caller counts attempts and brings the randomness.

    Without jitter the delays are ``initial_s``, ``initial_s * factor``, ``initial_s * factor**2``, ... up to ``max_s``.
    Jitter only shortens: a delay lies between ``1 - jitter`` times that figure and the figure itself.

    Raises:
        ValueError: A field is out of its range.
    """

    initial_s: float = 0.1
    """Seconds before the first retry; above 0."""
    factor: float = 2.0
    """By how much each delay is longer than the one before; at least 1."""
    max_s: float = 10.0
    """No delay is longer, in seconds; at least ``initial_s``."""
    jitter: float = 0.5
    """The part of a delay that is random, from 0 (none) to 1 (all of it)."""

    def __post_init__(self) -> None:
        if not self.initial_s > 0:
            raise ValueError(f"initial_s must be above 0, not {self.initial_s}")
        if not self.factor >= 1:
            raise ValueError(f"factor must be at least 1, not {self.factor}")
        if not self.max_s >= self.initial_s:
            raise ValueError(f"max_s must be at least initial_s, which is {self.initial_s}, not {self.max_s}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter}")

    def delay_s(self, attempt: int, unit_random: float) -> float:
        """Seconds to wait before retry number ``attempt``, counted from 0.

        Args:
            attempt: How many retries were made before.
            unit_random: A random number from 0 to 1, such as ``random.Random().random()``.

        Raises:
            ValueError: ``attempt`` is negative.
        """
        if attempt < 0:
            raise ValueError(f"attempt must not be negative, and is {attempt}")
        return self._full_s(attempt) * (1.0 - self.jitter * unit_random)

    def _full_s(self, attempt: int) -> float:
        try:
            return min(self.max_s, self.initial_s * self.factor**attempt)
        except OverflowError:
            return self.max_s
