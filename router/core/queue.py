"""Who waits for a slot of one deployment, in the order of arrival."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from router.core.load import ReplicaLoad
from serve_core.errors import ServeError

_REFUSAL_MARGIN_S = 0.05


def patience_s(left_s: float) -> float:
    """How long a request may wait whose caller gives up in ``left_s`` seconds.

    A little less, so that the caller learns why it was given up before its own timer ends the call without a reason.
    """
    return left_s - min(_REFUSAL_MARGIN_S, left_s / 10)


@dataclass(slots=True, eq=False)
class Waiter:
    """One request between its arrival and its end. ``deadline`` and ``arrived_at`` are monotonic seconds.

    ``replica`` is where it is sent, ``sent_at`` when, ``since`` what ``ReplicaLoad.pushes`` was then; ``error`` is why it
    was given up. With ``whole_gang`` it is sent to every one of ``members``, of which ``replica`` is the leader, and
    ``sinces`` is what ``pushes`` was of each.
    """

    number: int
    slots: int
    deadline: float | None
    arrived_at: float
    whole_gang: bool = False
    replica: ReplicaLoad | None = None
    sent_at: float = 0.0
    since: int = 0
    error: ServeError | None = None
    members: tuple[ReplicaLoad, ...] = ()
    sinces: tuple[int, ...] = ()


class WaitQueue:
    """A FIFO. Every operation takes constant time, but for those that came back and for ``position``."""

    def __init__(self) -> None:
        self.waits = False
        """Whether anybody is in. An attribute, because every request looks at it more than once."""
        self._returned: list[Waiter] = []
        self._waiting: OrderedDict[int, Waiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._returned) + len(self._waiting)

    def __iter__(self) -> Iterator[Waiter]:
        yield from self._returned
        yield from self._waiting.values()

    def append(self, waiter: Waiter) -> None:
        """A new arrival goes to the end."""
        self._waiting[waiter.number] = waiter
        self.waits = True

    def put_back(self, waiter: Waiter) -> None:
        """One that was refused by a replica takes its old place: everyone that never left the queue came later."""
        insort(self._returned, waiter, key=lambda other: other.number)
        self.waits = True

    def head(self) -> Waiter | None:
        """Whose turn it is."""
        if self._returned:
            return self._returned[0]
        return next(iter(self._waiting.values()), None)

    def remove(self, waiter: Waiter) -> bool:
        """Takes one out, wherever it is; says whether it was in."""
        if self._waiting.pop(waiter.number, None) is None:
            if waiter not in self._returned:
                return False
            self._returned.remove(waiter)
        self.waits = bool(self._waiting or self._returned)
        return True

    def position(self, waiter: Waiter) -> int:
        """Its place, counted from 1; 0 if it is not in."""
        if waiter.number not in self._waiting and waiter not in self._returned:
            return 0
        return next((place for place, other in enumerate(self, start=1) if other is waiter), 0)

    def clear(self) -> list[Waiter]:
        """Takes everyone out, in order."""
        everyone = list(self)
        self._returned.clear()
        self._waiting.clear()
        self.waits = False
        return everyone
