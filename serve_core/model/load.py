"""How full a replica is."""

from __future__ import annotations

from typing import NamedTuple


class Load(NamedTuple):
    """What a replica holds against what it can hold, in slots."""

    ongoing: int = 0
    reserved: int = 0
    capacity: int = 0

    @property
    def held(self) -> int:
        """Slots that are taken, by requests that run and by tokens that are not dispatched yet."""
        return self.ongoing + self.reserved

    @property
    def free(self) -> int:
        """Slots that can still be taken; 0 also when the capacity was lowered below what is held."""
        return max(0, self.capacity - self.ongoing - self.reserved)
