"""A replica that hears from no controller."""

from __future__ import annotations

from replica.core.orphan import OrphanWatch


def test_it_is_an_orphan_after_its_time_without_a_word() -> None:
    watch = OrphanWatch(timeout_s=3600, now=100)
    assert watch.deadline() == 3700
    assert not watch.orphaned(3699)
    assert watch.orphaned(3700)


def test_each_word_starts_the_time_anew() -> None:
    watch = OrphanWatch(timeout_s=3600, now=0)
    watch.heard(3599)
    assert not watch.orphaned(3600)
    assert watch.deadline() == 7199


def test_it_wants_a_word_several_times_before_that() -> None:
    watch = OrphanWatch(timeout_s=100, now=0)
    assert not watch.wants_word(24)
    assert watch.wants_word(25)
    watch.heard(30)
    assert not watch.wants_word(54)
    assert watch.wants_word(55)


def test_zero_means_never() -> None:
    watch = OrphanWatch(timeout_s=0, now=0)
    assert watch.deadline() is None
    assert not watch.wants_word(1e9)
    assert not watch.orphaned(1e9)
