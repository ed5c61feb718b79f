"""Counting in whole gangs. Replicas are what users count; gangs are what is started and stopped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotWhole:
    """A number of replicas that does not make whole gangs of ``size``. Its text says which numbers near it do."""

    num_replicas: int
    size: int

    @property
    def below(self) -> int:
        """The nearest number below that does; may be 0."""
        return self.num_replicas // self.size * self.size

    @property
    def above(self) -> int:
        """The nearest number above that does."""
        return self.below + self.size

    def __str__(self) -> str:
        return f"{self.num_replicas} is no multiple of gang.size = {self.size}; the nearest are {self.below} and {self.above}"


def whole_gangs(num_replicas: int, *, size: int) -> int | NotWhole:
    """How many gangs of ``size`` make exactly so many replicas.

    Every number of replicas that somebody asks for goes through here: deploys, scales, and the bounds of anything that
    scales by itself.
    """
    count, rest = divmod(num_replicas, size)
    return NotWhole(num_replicas, size) if rest else count


def gangs_for(num_replicas: int, *, size: int) -> int:
    """How many gangs of ``size`` make at least so many replicas: what a revision of another gang size is given."""
    return -(-num_replicas // size)
