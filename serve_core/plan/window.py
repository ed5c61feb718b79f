"""What a value was over a time: its mean and its extremes, in bounded memory however long that is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

SPANS = 600
"""Values that came within the same part of the time are kept as one span, and leave together: one of 600, so that of five minutes each
second is kept by itself."""


@dataclass(slots=True)
class _Span:
    begin: float
    total: float
    count: int
    least: float
    greatest: float

    def take(self, value: float) -> None:
        self.total += value
        self.count += 1
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)


class Window:
    """The values of the last while."""

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque()
        self._newest: float | None = None

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def newest(self) -> float | None:
        """When the newest value was taken; None if there is none."""
        return self._newest

    def note(self, value: float, *, now: float, keep_s: float) -> None:
        """Takes a value, and drops those of which a newer one is older than ``keep_s``, too."""
        spans = self._spans
        self._newest = now
        if spans and now - spans[-1].begin < keep_s / SPANS:
            spans[-1].take(value)
        else:
            spans.append(_Span(now, value, 1, value, value))
        while len(spans) > 1 and spans[1].begin <= now - keep_s:
            spans.popleft()

    def mean(self) -> float:
        """The mean of all that is kept.

        Raises:
            ZeroDivisionError: There is none.
        """
        return sum(span.total for span in self._spans) / sum(span.count for span in self._spans)

    def extremes_since(self, time: float) -> tuple[float, float] | None:
        """The least and the greatest value from then on; None if what is kept does not reach so far back.

        As of the value that held then, a span that began before counts whole.
        """
        least, greatest = float("inf"), float("-inf")
        for span in reversed(self._spans):
            least, greatest = min(least, span.least), max(greatest, span.greatest)
            if span.begin <= time:
                return least, greatest
        return None
