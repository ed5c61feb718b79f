"""Which replica gets the next request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from router.core.load import CLOSED, DOUBTFUL, OPEN, Fit, ReplicaLoad
from router.core.ranking import Shortlists
from serve_core.model.ids import ReplicaId


class IndexedSet:
    """Replicas in no particular order: membership, adding, removing and picking by index in constant time."""

    def __init__(self) -> None:
        self.items: list[ReplicaLoad] = []
        """They, for whoever has no time for a call; only to be read."""
        self._index: dict[ReplicaId, int] = {}

    def add(self, replica: ReplicaLoad) -> None:
        """Adds it unless it is in."""
        if replica.replica_id not in self._index:
            self._index[replica.replica_id] = len(self.items)
            self.items.append(replica)

    def discard(self, replica: ReplicaLoad) -> None:
        """Removes it if it is in."""
        index = self._index.pop(replica.replica_id, None)
        if index is None:
            return
        last = self.items.pop()
        if index < len(self.items):
            self.items[index] = last
            self._index[last.replica_id] = index

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ReplicaLoad:
        return self.items[index]

    def __iter__(self) -> Iterator[ReplicaLoad]:
        return iter(self.items)

    def __contains__(self, replica: ReplicaLoad) -> bool:
        return replica.replica_id in self._index


class Candidates:
    """The replicas of one deployment, sorted by whether a request of weight 1 fits."""

    def __init__(self) -> None:
        self.everyone = IndexedSet()
        self.open = IndexedSet()
        self.doubtful = IndexedSet()
        self._shortlists = Shortlists(ReplicaLoad.fit, _utilisation)
        self.watched = False
        """Whether a request of another weight than 1 was ever to be placed: before, a change of an open replica that stays
        open need not be told."""

    def least_utilised(self, slots: int) -> ReplicaLoad | None:
        """Of those that a request of this weight fits on, the one that it fits on best; None if there is none now."""
        self.watched = True
        return self._shortlists.choose(slots, self.everyone)

    def add(self, replica: ReplicaLoad) -> None:
        """Takes a replica in."""
        replica.candidate = True
        if replica not in self.everyone:
            replica.placed = CLOSED
            self.everyone.add(replica)
        self.sort(replica)

    def remove(self, replica: ReplicaLoad) -> None:
        """Drops a replica."""
        replica.candidate = False
        replica.placed = CLOSED
        for members in (self.everyone, self.open, self.doubtful):
            members.discard(replica)
        self._shortlists.drop(replica)

    def sort(self, replica: ReplicaLoad) -> None:
        """Puts a replica where it belongs now, if it is one of them. To be called after each change of its estimate."""
        if not replica.candidate:
            return
        if self.watched:
            self._shortlists.changed(replica)
        fit = replica.fit()
        if fit is replica.placed:
            return
        replica.placed = fit
        if fit is OPEN:
            self.open.add(replica)
            self.doubtful.discard(replica)
        elif fit is DOUBTFUL:
            self.open.discard(replica)
            self.doubtful.add(replica)
        else:
            self.open.discard(replica)
            self.doubtful.discard(replica)


class Policy(Protocol):
    """Chooses among the replicas of one deployment; may keep state of its own."""

    def choose(self, candidates: Candidates, slots: int) -> ReplicaLoad | None:
        """A replica that a request of this weight fits on, or None if there is none now.

        It takes one that is DOUBTFUL only where none is OPEN, and never one that is CLOSED.
        """


class PowerOfTwo:
    """The less utilised of two random replicas: constant time, and no herd on the emptiest one.

    Args:
        unit_random: Random numbers from 0 to below 1.
    """

    def __init__(self, unit_random: Callable[[], float]) -> None:
        self._unit_random = unit_random

    def choose(self, candidates: Candidates, slots: int) -> ReplicaLoad | None:
        """The less utilised of two, or the least utilised of all for a request that weighs more."""
        if slots != 1:
            return candidates.least_utilised(slots)
        items = candidates.open.items or candidates.doubtful.items
        count = len(items)
        if count <= 1:
            return items[0] if count else None
        first = int(self._unit_random() * count)
        second = int(self._unit_random() * (count - 1))
        # Two different ones, each pair as likely: the second draw skips the first's place.
        one, other = items[first], items[second + (second >= first)]
        return other if one.fuller_than(other) else one


class RoundRobin:
    """One after the other, passing over those that are full."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, candidates: Candidates, slots: int) -> ReplicaLoad | None:
        """The next one that fits: constant time while most replicas have room."""
        if slots == 1 and not len(candidates.open) and not len(candidates.doubtful):
            return None
        return self._first(candidates.everyone, slots, OPEN) or self._first(candidates.everyone, slots, DOUBTFUL)

    def _first(self, everyone: IndexedSet, slots: int, wanted: Fit) -> ReplicaLoad | None:
        for step in range(len(everyone)):
            index = (self._next + step) % len(everyone)
            if everyone[index].fit(slots) is wanted:
                self._next = index + 1
                return everyone[index]
        return None


def _utilisation(replica: ReplicaLoad) -> tuple[float]:
    return (replica.utilisation,)
