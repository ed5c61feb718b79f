"""Which calls of an actor are made once more."""

from __future__ import annotations

import pytest

from replica.core.outcome import Outcome, is_sent_again, outcome_of
from serve_core.errors import (
    ActorFencedError,
    ApplicationError,
    DrainingError,
    MethodUnknownError,
    NoSlotError,
    QueueFullError,
    ReplicaDiedError,
    ReplicaUnavailableError,
)


@pytest.mark.parametrize(
    "kind", [ActorFencedError, DrainingError, NoSlotError, QueueFullError, ReplicaUnavailableError]
)
def test_what_was_refused_is_sent_again(kind: type[Exception]) -> None:
    assert outcome_of(kind("no")) is Outcome.NOT_RUN
    assert is_sent_again(kind("no"), idempotent=False)


def test_what_may_have_run_is_sent_again_only_if_it_may_run_twice() -> None:
    died = ReplicaDiedError("gone")
    assert outcome_of(died) is Outcome.MAY_HAVE_RUN
    assert not is_sent_again(died, idempotent=False)
    assert is_sent_again(died, idempotent=True)


@pytest.mark.parametrize("error", [ApplicationError("x"), MethodUnknownError("x"), TimeoutError("x")])
def test_answers_are_not(error: Exception) -> None:
    assert outcome_of(error) is Outcome.ANSWERED
    assert not is_sent_again(error, idempotent=True)
