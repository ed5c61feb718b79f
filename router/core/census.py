"""What the replicas of one deployment are together: kept up to date, so that nobody has to look at each of them."""

from __future__ import annotations

from collections import Counter

from router.core.load import ReplicaLoad

_UNKNOWN = (0, False)


class Census:
    """How many replicas are in the table, how many of them are connected, and how many slots they have."""

    def __init__(self) -> None:
        self._counted: dict[ReplicaLoad, tuple[int, bool]] = {}
        # As many as capacities differ, which is more than one only while an update changes it.
        self._of_capacity: Counter[int] = Counter()
        self.connected = 0
        """Replicas that are connected."""
        self.slots = 0
        """The slots of all of them."""

    def __len__(self) -> int:
        return len(self._counted)

    @property
    def largest(self) -> int:
        """The slots of the one that has the most; 0 while none is known."""
        return max(self._of_capacity, default=0)

    def add(self, replica: ReplicaLoad) -> None:
        """A replica came into the table."""
        self._counted[replica] = _UNKNOWN
        self.see(replica)

    def remove(self, replica: ReplicaLoad) -> None:
        """A replica left it."""
        counted = self._counted.pop(replica, None)
        if counted is not None:
            self._add(counted, -1)

    def see(self, replica: ReplicaLoad) -> None:
        """A replica may have another capacity now, or its connection may have come or gone."""
        known = (replica.capacity, replica.connected)
        counted = self._counted.get(replica)
        if counted is None or counted == known:
            return
        self._add(counted, -1)
        self._add(known, 1)
        self._counted[replica] = known

    def _add(self, known: tuple[int, bool], sign: int) -> None:
        capacity, connected = known
        self.slots += sign * capacity
        self.connected += sign * connected
        if capacity:
            self._of_capacity[capacity] += sign
            if not self._of_capacity[capacity]:
                del self._of_capacity[capacity]
