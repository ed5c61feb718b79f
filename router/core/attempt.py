"""One try to reserve a gang: whom to ask next.

A first try asks all members at the same time. A later one asks in the order of ranks, and stops at the first refusal: of
several who compete like that, the one that is ahead has what the others still want, so one of them gets on.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.core.load import ReplicaLoad


class GangAttempt:
    """Whom to ask, given what was answered so far.

    Args:
        members: The gang's members, by rank.
        at_once: Whether to ask them all at the same time.
    """

    def __init__(self, members: Sequence[ReplicaLoad], *, at_once: bool) -> None:
        self._left = list(members)
        self._at_once = at_once
        self._refused = False

    def next(self) -> tuple[ReplicaLoad, ...]:
        """Who is to be asked now, once everyone before has answered; nobody when the try is over."""
        if self._refused:
            return ()
        count = len(self._left) if self._at_once else 1
        asked, self._left = self._left[:count], self._left[count:]
        return tuple(asked)

    def refused(self) -> None:
        """A member refused: nobody else is asked."""
        self._refused = True
