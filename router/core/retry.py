"""What may be tried again, and where."""

from __future__ import annotations

from enum import Enum

from serve_core.errors import DrainingError, NoSlotError, ReplicaUnavailableError, ServeError


class Outcome(Enum):
    """What the end of one try says about its replica, and about another try."""

    FULL = "full"
    """Refused for want of slots: nothing ran, any replica with room may have it."""
    DRAINING = "draining"
    """Refused because it drains: nothing ran, another replica may have it."""
    UNREACHABLE = "unreachable"
    """It never arrived: another replica may have it."""
    FINAL = "final"
    """It arrived, or is the caller's own fault: never repeated."""


# As names of their own: a look into an enum costs a request more than a call does.
FULL, DRAINING, UNREACHABLE, FINAL = Outcome


def outcome(error: BaseException) -> Outcome:
    """How a try ended. Only what proves that nothing ran is tried again."""
    if isinstance(error, ServeError):
        if isinstance(error, NoSlotError):
            return Outcome.FULL
        if isinstance(error, DrainingError):
            return Outcome.DRAINING
        if isinstance(error, ReplicaUnavailableError):
            return Outcome.UNREACHABLE
    return Outcome.FINAL
