"""Where the members of a gang meet: who has come to which round of which barrier.

A member counts its own rounds: how often it has passed a barrier of that name within the epoch. It is there only as long
as it waits, so one that gave up, or whose connection is lost, holds nobody's place; it comes again to the same round. A
round that was passed stays so for whoever comes to it late, because the answer got lost on its way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from serve_core.errors import ConfigInvalidError, FieldViolation, GangChangedError

NAME_CHARS_MAX = 200
NAMES_MAX = 10_000
"""Barriers of different names that a member may come to within an epoch."""

PASSED_MAX = 1024
"""Rounds that are remembered as passed, the latest: a member comes again within seconds or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One member's coming to one round of one barrier, by the roster of this epoch."""

    epoch: int
    rank: int
    name: str = ""
    round: int = 0


_Round = tuple[int, str, int]


class Barriers:
    """The barriers of one gang.

    Args:
        size: Members of the gang.
    """

    def __init__(self, *, size: int = 1) -> None:
        self._size = size
        self._epoch = 0
        self._there: dict[_Round, Counter[int]] = {}
        self._passed: dict[_Round, None] = {}

    def begin(self, *, epoch: int) -> None:
        """A roster of this epoch holds from now on: whoever came by an earlier one waits in vain."""
        self._epoch = max(self._epoch, epoch)

    def come(self, visit: Visit) -> None:
        """A member has come, and waits from now on. One that knows a later roster than this process waits for it, too.

        Raises:
            GangChangedError: It knows an earlier roster than this process.
            ConfigInvalidError: There can be no such visit.
        """
        self._require_sound(visit)
        self._require_current(visit)
        place = _round(visit)
        if place in self._passed:
            return
        there = self._there.setdefault(place, Counter())
        there[visit.rank] += 1
        if len(there) == self._size:
            del self._there[place]
            self._passed[place] = None
            if len(self._passed) > PASSED_MAX:
                del self._passed[next(iter(self._passed))]

    def go(self, visit: Visit) -> None:
        """A member waits no more, whether it passed or not. To be called once for each ``come``."""
        place = _round(visit)
        there = self._there.get(place)
        if there is None:
            return
        there[visit.rank] -= 1
        if there[visit.rank] <= 0:
            del there[visit.rank]
        if not there:
            del self._there[place]

    def missing(self, visit: Visit) -> tuple[int, ...]:
        """The ranks that have not come; empty once the round is passed.

        Raises:
            GangChangedError: It will not be passed: another roster holds by now.
        """
        place = _round(visit)
        if place in self._passed:
            return ()
        self._require_current(visit)
        there = self._there.get(place, Counter())
        return tuple(rank for rank in range(self._size) if rank not in there)

    def _require_current(self, visit: Visit) -> None:
        if visit.epoch < self._epoch:
            raise GangChangedError(
                f"barrier {visit.name!r} cannot be passed by the roster of epoch {visit.epoch}: a member of the gang was "
                f"replaced, and the epoch is {self._epoch}",
                details={"epoch": str(self._epoch), "asked": str(visit.epoch)},
            )

    def _require_sound(self, visit: Visit) -> None:
        violations = []
        if visit.rank >= self._size:
            violations.append(FieldViolation("rank", f"{visit.rank} is not below {self._size}, the gang's size"))
        if len(visit.name) > NAME_CHARS_MAX:
            violations.append(FieldViolation("name", f"is longer than {NAME_CHARS_MAX} characters"))
        if violations:
            raise ConfigInvalidError(violations, what="the barrier")


class Rounds:
    """How often one member has passed each barrier within the epoch."""

    def __init__(self) -> None:
        self._epoch = 0
        self._passed: dict[str, int] = {}

    def next(self, *, epoch: int, rank: int, name: str) -> Visit:
        """The visit to make now.

        Raises:
            ConfigInvalidError: There were too many names.
        """
        if epoch != self._epoch:
            self._epoch = epoch
            self._passed = {}
        if name not in self._passed and len(self._passed) >= NAMES_MAX:
            description = (
                f"is the {NAMES_MAX + 1}th of this epoch: come to one barrier again and again, each time counts"
            )
            raise ConfigInvalidError((FieldViolation("name", description),), what="the barrier")
        return Visit(epoch=epoch, rank=rank, name=name, round=self._passed.get(name, 0))

    def passed(self, visit: Visit) -> None:
        """The round of this visit was passed."""
        if visit.epoch == self._epoch:
            self._passed[visit.name] = visit.round + 1


def _round(visit: Visit) -> _Round:
    return visit.epoch, visit.name, visit.round
