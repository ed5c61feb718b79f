"""What a router believes of a replica's load. The replica's own ledger is the truth; every reply corrects this one.

Rules:

* ``own`` is exact: the slots of the requests that this router has sent there and that have not come back.
* ``others`` is an estimate: what was held there beyond ours when the replica last told its load.
* A refusal means full until told: by a reply that shows room, or by a push that a refused router is owed.
* Where only ``others`` make it look full and no push is owed for as few slots, one probe at a time may find out. So no
  replica stays shut without an event on its way that opens it.
"""

from __future__ import annotations

from enum import IntEnum

from serve_core.model.ids import ReplicaId
from serve_core.model.load import Load

PROBE_S = 0.02
"""Seconds after which a probe that was not refused counts as accepted. Refusals take one round trip."""


class Fit(IntEnum):
    """Whether a request may be sent to a replica now."""

    CLOSED = 0
    """No: it is full, or out of rotation, and an event is due when that changes."""
    DOUBTFUL = 1
    """It looks full, but nobody would tell if it were not: one probe may find out."""
    OPEN = 2
    """There is room, as far as is known."""


# As names of their own: a look into an enum costs a request more than a call does.
CLOSED, DOUBTFUL, OPEN = Fit


class ReplicaLoad:
    """The estimate for one replica."""

    __slots__ = (
        "_push_owed",
        "candidate",
        "capacity",
        "connected",
        "draining",
        "gone",
        "others",
        "own",
        "placed",
        "probe_ends_at",
        "pushes",
        "replica_id",
    )

    def __init__(self, replica_id: ReplicaId) -> None:
        self.replica_id = replica_id
        self.own = 0
        self.others = 0
        self.capacity = 0
        self.connected = False
        self.draining = False
        self.gone = False
        self.candidate = False
        """Whether it may be chosen for a call of its own: its gang is whole, and routes to it."""
        self.placed = CLOSED
        """Among which candidates it is: those that are closed are in neither set."""
        self.pushes = 0
        self._push_owed = 0
        """The fewest slots that a refused request asked for: a push is due when so many are free. 0 if none is due."""
        self.probe_ends_at: float | None = None
        """When the probe that is under way counts as accepted, or None."""

    @property
    def held(self) -> int:
        """Slots that are taken, as far as is known."""
        return self.own + self.others

    @property
    def utilisation(self) -> float:
        """The part of the slots that is taken, as far as is known: 0 when idle, 1 when full."""
        return (self.own + self.others) / self.capacity if self.capacity else 1.0

    def fuller_than(self, other: ReplicaLoad) -> bool:
        """Whether more of its slots is taken than of another's, as ``utilisation`` is. Both have some."""
        return (self.own + self.others) * other.capacity > (other.own + other.others) * self.capacity

    def fit(self, slots: int = 1) -> Fit:
        """Whether a request of this weight may be sent there."""
        if not self.connected or self.draining or self.gone or self.own + slots > self.capacity:
            return CLOSED
        if self.own + self.others + slots <= self.capacity:
            return OPEN
        if 0 < self._push_owed <= slots or self.probe_ends_at is not None:
            return CLOSED
        return DOUBTFUL

    def started(self, slots: int, now: float) -> None:
        """A request was given to the replica."""
        if self.own + self.others + slots > self.capacity and self.fit(slots) is DOUBTFUL:
            self.probe_ends_at = now + PROBE_S
        self.own += slots

    def finished(self, slots: int, load: Load | None = None) -> bool:
        """A request came back, whatever became of it. ``load`` is what its reply told; returns what ``told`` does of that."""
        self.own -= slots
        self.probe_ends_at = None
        return load is not None and self.told(load)

    def refused(self, slots: int, since: int) -> None:
        """A request that came back was refused for want of slots.

        Args:
            slots: Its weight, no longer counted in ``own``.
            since: ``pushes`` when it was sent. A push since then may be the one that this refusal is owed, seen in
                the wrong order: then nothing is known, and another try is due.
        """
        if self.pushes != since:
            return
        self._push_owed = min(self._push_owed or slots, slots)
        self.others = max(self.others, self.capacity - self.own - slots + 1)

    def told(self, load: Load, *, freed: int = 0) -> bool:
        """A reply told the load. ``freed`` slots that it no longer holds are still counted in ``own``.

        Returns whether it has another capacity now.
        """
        ongoing, reserved, capacity = load
        ours = self.own - freed
        others = ongoing + reserved - ours if ours > 0 else ongoing + reserved
        self.others = others if others > 0 else 0
        self.probe_ends_at = None
        if capacity == self.capacity:
            return False
        self.capacity = capacity
        return True

    def pushed(self, load: Load, *, draining: bool) -> None:
        """The replica told its load by itself: it is connected, and owes nothing more."""
        self.told(load)
        self.connected = True
        self.pushes += 1
        self._push_owed = 0
        self.draining = draining

    def unwatched(self, *, reachable: bool) -> None:
        """Nobody will push: nothing may be waited for. Unless it is reachable it is out of rotation until it is back."""
        self.pushes += 1
        self._push_owed = 0
        self.connected = self.connected and reachable

    def unreachable(self, since: int) -> None:
        """A request that was given to it when ``pushes`` was ``since`` did not get there. Later news outweigh that."""
        self.connected = self.connected and self.pushes != since

    def drains(self, since: int) -> None:
        """A request that was sent when ``pushes`` was ``since`` was refused because it drains."""
        self.draining = self.draining or self.pushes == since

    def settle_probe(self, now: float) -> bool:
        """Ends a probe that was not refused in time; says whether there was one."""
        if self.probe_ends_at is None or now < self.probe_ends_at:
            return False
        self.probe_ends_at = None
        return True
