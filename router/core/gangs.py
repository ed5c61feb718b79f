"""The gangs of one deployment in this router's table: which are whole, and which one is reserved next.

Rules:

* A gang is whole while each of its ranks is in the table, once, and all are of one epoch. Nothing is sent to one that is
  not: neither a call to a member of it, nor a reservation of it.
* What counts is what each replica says of itself: while a revision takes the place of another, gangs of two sizes may
  be in the table.
* A gang is as full as its fullest member, and has room only where every member has.
"""

from __future__ import annotations

from collections.abc import Iterator

from router.core.load import Fit, ReplicaLoad
from router.core.ranking import Shortlists
from serve_core.model.gang import GangRoute
from serve_core.model.ids import GangId, ReplicaId
from serve_core.model.replica import Gang


class GangLoad:
    """The members of one gang that are in the table, and how full they are."""

    __slots__ = ("_members", "chosen", "gang_id", "whole")

    def __init__(self, gang_id: GangId) -> None:
        self.gang_id = gang_id
        self.whole = False
        self.chosen = 0
        """Counts reservations of gangs: which of them was the last of this one."""
        self._members: dict[ReplicaId, tuple[Gang, ReplicaLoad]] = {}

    def __iter__(self) -> Iterator[tuple[Gang, ReplicaLoad]]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def by_rank(self) -> tuple[ReplicaLoad, ...]:
        """The members, the leader first."""
        return tuple(load for _, load in sorted(self, key=lambda seat: seat[0].rank))

    def put(self, gang: Gang, member: ReplicaLoad) -> None:
        """A member came, or is in another epoch of the gang now."""
        self._members[member.replica_id] = (gang, member)
        self._count()

    def drop(self, member: ReplicaLoad) -> None:
        """A member left."""
        self._members.pop(member.replica_id, None)
        self._count()

    def takes_calls(self, gang: Gang, route: GangRoute) -> bool:
        """Whether the member in this place may be sent the calls of callers."""
        return self.whole and (route is GangRoute.ALL or gang.rank == 0)

    def fit(self, slots: int) -> Fit:
        """Whether a reservation of this weight on every member may be tried now."""
        return min((member.fit(slots) for _, member in self), default=Fit.CLOSED) if self.whole else Fit.CLOSED

    def rank(self) -> tuple[float, int]:
        """The least comes first: by the utilisation of the fullest member, then by when it was last chosen."""
        return max((member.utilisation for _, member in self), default=1.0), self.chosen

    def _count(self) -> None:
        places = [gang for gang, _ in self]
        self.whole = bool(places) and (
            len({(gang.size, gang.epoch) for gang in places}) == 1
            and sorted(gang.rank for gang in places) == list(range(places[0].size))
        )


class Gangs:
    """Which gang gets the next reservation: the least full; of equals, the one that had to wait longest for its turn.

    Replicas whose estimate changes are only noted; what that means for their gangs is seen when one is to be chosen.
    """

    def __init__(self) -> None:
        # Dicts, because sets have no order.
        self._gangs: dict[GangId, GangLoad] = {}
        self._of: dict[ReplicaId, GangLoad] = {}
        self._shortlists = Shortlists(GangLoad.fit, GangLoad.rank)
        self._choices = 0
        self.watched = False
        """Whether anyone ever asked for a gang: before, changes of estimates need not be told."""

    def __iter__(self) -> Iterator[GangLoad]:
        return iter(self._gangs.values())

    def put(self, gang: Gang, member: ReplicaLoad) -> tuple[GangLoad, ...]:
        """A replica came, or has another place in a gang now. Returns the gangs that this changed."""
        left = self._of.get(member.replica_id)
        joined = self._gangs.setdefault(gang.gang_id, GangLoad(gang.gang_id))
        joined.put(gang, member)
        self._of[member.replica_id] = joined
        self._shortlists.changed(joined)
        if left is None or left is joined:
            return (joined,)
        self._leave(left, member)
        return (left, joined)

    def drop(self, member: ReplicaLoad) -> GangLoad | None:
        """A replica left. Returns the gang that it was in."""
        left = self._of.pop(member.replica_id, None)
        if left is not None:
            self._leave(left, member)
        return left

    def changed(self, member: ReplicaLoad) -> None:
        """A replica's estimate changed. Needs to be told only while ``watched``."""
        gang = self._of.get(member.replica_id)
        if gang is not None:
            self._shortlists.changed(gang)

    def choose(self, slots: int) -> GangLoad | None:
        """A gang whose every member has room for this weight, as far as is known; None if there is none now.

        Where there is none, one with members that are only doubtful: what a reservation finds out there is news.
        """
        self.watched = True
        best = self._shortlists.choose(slots, self)
        if best is not None:
            self._choices += 1
            best.chosen = self._choices
            self._shortlists.changed(best)
        return best

    def _leave(self, gang: GangLoad, member: ReplicaLoad) -> None:
        gang.drop(member)
        if len(gang):
            self._shortlists.changed(gang)
        else:
            self._shortlists.drop(gang)
            del self._gangs[gang.gang_id]
