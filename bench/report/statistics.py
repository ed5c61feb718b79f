"""Quantiles, coordinated omission, and what is made of rounds that were measured in turn. Plain functions of numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of ``values`` is.

    Args:
        values: In ascending order, at least one.
        share: From 0 to 1.
    """
    if not values:
        raise ValueError("there is no quantile of nothing")
    return values[min(len(values) - 1, int(len(values) * share))]


def latencies(due: Iterable[float], ended: Iterable[float]) -> list[float]:
    """What calls of an open loop took, in ascending order: from when each was *due*, so that a late start counts too.

    A caller that waits for a slow answer sends its next call late, and would leave out of its figures what that call
    would have waited. Counting from the schedule leaves nothing out.
    """
    return sorted(end - start for start, end in zip(due, ended, strict=True))


def corrected(taken: Iterable[float], interval: float) -> list[float]:
    """What callers in a closed loop would have seen, had each called every ``interval`` whatever happened; ascending.

    A caller that was held for ten intervals left nine calls unsent. Each of them would have waited for the rest of that
    time: 9, 8, ... 1 intervals; that is what is added here.

    Args:
        taken: What the calls took.
        interval: The pace that callers kept when nothing held them, such as the median of ``taken``; 0 adds nothing.
    """
    found = []
    for one in taken:
        found.append(one)
        if interval > 0:
            missed = one - interval
            while missed >= interval:
                found.append(missed)
                missed -= interval
    return sorted(found)


def closed_loop_ms(taken_s: Iterable[float]) -> dict[str, float]:
    """``p50_ms`` and ``p99_ms`` of callers in a closed loop.

    The median is as it was: it is the pace that callers kept. The tail is corrected by that pace, because it is there that
    what callers left unsent is missing.
    """
    taken = sorted(taken_s)
    pace = quantile(taken, 0.5)
    return {"p50_ms": pace * 1000, "p99_ms": quantile(corrected(taken, pace), 0.99) * 1000}


def open_loop_ms(due: Iterable[float], ended: Iterable[float]) -> dict[str, float]:
    """``p50_ms`` and ``p99_ms`` of calls by a schedule, in seconds of one clock."""
    taken = latencies(due, ended)
    return {"p50_ms": quantile(taken, 0.5) * 1000, "p99_ms": quantile(taken, 0.99) * 1000}


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and their smallest and largest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


def ratios(taken: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Round by round: the two of one round shared the state of the machine, and most of what was wrong with it."""
    return [one / base for one, base in zip(taken, baseline, strict=True)]
