"""What a failed call to an actor means for the one who made it."""

from __future__ import annotations

from enum import Enum

from serve_core.errors import (
    ActorFencedError,
    DrainingError,
    NoSlotError,
    QueueFullError,
    ReplicaDiedError,
    ReplicaUnavailableError,
)


class Outcome(Enum):
    """Whether the call ran."""

    NOT_RUN = "not run"
    """It was refused before anything ran: it may be sent again."""
    MAY_HAVE_RUN = "may have run"
    """The actor ended with the call inside."""
    ANSWERED = "answered"
    """It was answered, with this error."""


_REFUSALS = (ActorFencedError, DrainingError, NoSlotError, QueueFullError, ReplicaUnavailableError)


def outcome_of(error: Exception) -> Outcome:
    """What this error of a call says."""
    if isinstance(error, _REFUSALS):
        return Outcome.NOT_RUN
    return Outcome.MAY_HAVE_RUN if isinstance(error, ReplicaDiedError) else Outcome.ANSWERED


def is_sent_again(error: Exception, *, idempotent: bool) -> bool:
    """Whether a call that ended so is made once more; ``idempotent`` says that it may run twice."""
    outcome = outcome_of(error)
    return outcome is Outcome.NOT_RUN or (idempotent and outcome is Outcome.MAY_HAVE_RUN)
