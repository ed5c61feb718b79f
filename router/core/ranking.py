"""Who has room for a request, best first, without a look at everyone.

Rules:

* What changes is only noted; what that means is seen when somebody is to be chosen, for what changed since the last time.
* There is a list for each weight that is asked for, as whether there is room depends on it. Beyond ``WEIGHTS_MAX`` of them the one
  that was asked for least recently is forgotten, and made anew when it is asked for again: then, everyone is looked at.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import count
from typing import Generic, TypeVar

from router.core.load import Fit

T = TypeVar("T")
Rank = tuple[float, ...]

WEIGHTS_MAX = 8
"""Weights that have a list."""


class Ranking(Generic[T]):
    """Items in the order of a rank that changes; of equals, the one that came in first."""

    def __init__(self) -> None:
        self._places: dict[T, tuple[Rank, int]] = {}
        # What was moved or removed stays in the heap until it surfaces: it is built anew when that outnumbers the rest.
        self._heap: list[tuple[Rank, int, int, T]] = []
        self._arrivals = count()
        self._pushes = count()

    def __len__(self) -> int:
        return len(self._places)

    def put(self, item: T, rank: Rank) -> None:
        """Takes an item in, or moves it."""
        before = self._places.get(item)
        if before is not None and before[0] == rank:
            return
        place = self._places[item] = (rank, before[1] if before is not None else next(self._arrivals))
        if len(self._heap) > 2 * len(self._places) + 64:
            self._heap = [(*place, next(self._pushes), item) for item, place in self._places.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (*place, next(self._pushes), item))

    def discard(self, item: T) -> None:
        """Takes an item out, if it is in."""
        self._places.pop(item, None)

    def first(self) -> T | None:
        """The item of the least rank, or None if there is none."""
        while self._heap:
            rank, arrival, _, item = self._heap[0]
            if self._places.get(item) == (rank, arrival):
                return item
            heapq.heappop(self._heap)
        return None


class _Shortlist(Generic[T]):
    """Who has room for one weight."""

    def __init__(self, everyone: Iterable[T]) -> None:
        # A dict, because sets have no order.
        self.changed = dict.fromkeys(everyone)
        self.by_fit: dict[Fit, Ranking[T]] = {Fit.OPEN: Ranking(), Fit.DOUBTFUL: Ranking()}


class Shortlists(Generic[T]):
    """Who has room for requests of each weight: replicas, or gangs.

    Args:
        fit: Whether a request of this weight may be sent there now.
        rank: Of those that it may be sent to alike, the one of the least rank is chosen.
    """

    def __init__(self, fit: Callable[[T, int], Fit], rank: Callable[[T], Rank]) -> None:
        self._fit = fit
        self._rank = rank
        self._by_weight: OrderedDict[int, _Shortlist[T]] = OrderedDict()

    def changed(self, item: T) -> None:
        """Something is to be looked at again. Needs to be told only once ``choose`` was called."""
        for shortlist in self._by_weight.values():
            shortlist.changed[item] = None

    def drop(self, item: T) -> None:
        """Something is chosen no more."""
        for shortlist in self._by_weight.values():
            shortlist.changed.pop(item, None)
            for ranking in shortlist.by_fit.values():
                ranking.discard(item)

    def choose(self, slots: int, everyone: Iterable[T]) -> T | None:
        """Of ``everyone``, who has room for this weight, as far as is known; where nobody has, who is doubtful; else None."""
        shortlist = self._by_weight.get(slots)
        if shortlist is None:
            shortlist = self._by_weight[slots] = _Shortlist(everyone)
            if len(self._by_weight) > WEIGHTS_MAX:
                self._by_weight.popitem(last=False)
        self._by_weight.move_to_end(slots)
        for item in shortlist.changed:
            fit = self._fit(item, slots)
            for wanted, ranking in shortlist.by_fit.items():
                if fit is wanted:
                    ranking.put(item, self._rank(item))
                else:
                    ranking.discard(item)
        shortlist.changed.clear()
        return shortlist.by_fit[Fit.OPEN].first() or shortlist.by_fit[Fit.DOUBTFUL].first()
