"""What is remembered of tokens that have ended."""

from __future__ import annotations

from replica.core.history import History


def test_it_tells_how_a_token_ended() -> None:
    history: History[str] = History(10)
    history.add("a", 1, "released")
    history.add("b", 2, "expired")
    found = history.get("a"), history.get("b")
    assert [(ended.epoch, ended.state) for ended in found if ended] == [(1, "released"), (2, "expired")]
    assert history.get("c") is None
    assert "a" in history
    assert "c" not in history


def test_the_oldest_is_forgotten_first() -> None:
    history: History[str] = History(3)
    for secret in "abcd":
        history.add(secret, 1, "released")
    assert len(history) == 3
    assert [secret for secret in "abcd" if secret in history] == ["b", "c", "d"]


def test_those_that_ended_alike_share_what_is_kept() -> None:
    history: History[str] = History(10)
    history.add("a", 1, "released")
    history.add("b", 1, "released")
    assert history.get("a") is history.get("b")
