"""What is_ready said last."""

from __future__ import annotations

from replica.core.readiness import Readiness


def is_ready(readiness: Readiness) -> bool:
    return readiness.ready


def test_nobody_to_ask_means_ready() -> None:
    assert Readiness(asked=False).ready


def test_it_is_ready_once_that_is_said_and_until_the_contrary_is() -> None:
    readiness = Readiness(asked=True)
    assert not is_ready(readiness)
    readiness.said(ready=True)
    assert is_ready(readiness)
    readiness.said(ready=False)
    assert not is_ready(readiness)


def test_a_question_that_fails_says_no_and_is_told_of_once() -> None:
    readiness = Readiness(asked=True)
    readiness.said(ready=True)
    assert readiness.failed()
    assert not is_ready(readiness)
    assert not readiness.failed()
    readiness.said(ready=True)
    assert is_ready(readiness)
    assert readiness.failed()
