"""The event loop's lag, and what a look at it shows."""

from __future__ import annotations

from replica.core.watchdog import FINE, Finding, Look, Watchdog, interval_s


def test_a_loop_that_answers_is_fine_and_its_lag_is_known() -> None:
    watchdog = Watchdog(late_after_s=3)
    assert watchdog.look(100) is FINE
    assert watchdog.ask(100)
    assert watchdog.answer(100.25) == 0.25
    assert watchdog.ask(100.5)
    assert watchdog.answer(100.51) < 0.02
    assert watchdog.take_lag_s(100.6) == 0.25
    assert watchdog.take_lag_s(100.7) == 0


def test_one_question_at_a_time() -> None:
    watchdog = Watchdog(late_after_s=3)
    assert watchdog.ask(0)
    assert not watchdog.ask(1)
    watchdog.answer(1)
    assert watchdog.ask(2)


def test_an_open_question_counts_as_lag() -> None:
    watchdog = Watchdog(late_after_s=3)
    watchdog.ask(10)
    assert watchdog.take_lag_s(11.5) == 1.5
    assert watchdog.take_lag_s(12) == 2


def test_an_answer_without_a_question_is_no_lag() -> None:
    watchdog = Watchdog(late_after_s=3)
    assert watchdog.answer(5) == 0
    assert watchdog.take_lag_s(6) == 0


def test_a_stuck_loop_is_told_of_once() -> None:
    watchdog = Watchdog(late_after_s=3)
    watchdog.look(0)
    watchdog.ask(0)
    assert watchdog.look(1) is FINE
    assert watchdog.look(2) is FINE
    assert watchdog.look(3) is FINE
    assert watchdog.look(3.5) == Look(Finding.STUCK, 3.5)
    assert watchdog.look(4) is FINE
    assert watchdog.look(6) is FINE


def test_a_loop_that_is_stuck_again_is_told_of_again() -> None:
    watchdog = Watchdog(late_after_s=1)
    watchdog.look(0)
    watchdog.ask(0)
    watchdog.look(0.9)
    assert watchdog.look(1.5).finding is Finding.STUCK
    watchdog.answer(1.6)
    watchdog.ask(1.7)
    assert watchdog.look(2) is FINE
    assert watchdog.look(2.8) == Look(Finding.STUCK, 2.8 - 1.7)


def test_a_process_that_stood_still_was_paused_and_its_loop_is_not_stuck() -> None:
    watchdog = Watchdog(late_after_s=3)
    watchdog.look(0)
    watchdog.ask(0)
    assert watchdog.look(60) == Look(Finding.PAUSED, 60)
    assert watchdog.look(61) is FINE
    assert watchdog.look(63) is FINE
    assert watchdog.take_lag_s(63) == 63
    assert watchdog.look(63.5) == Look(Finding.STUCK, 63.5)


def test_the_limit_changes_live() -> None:
    watchdog = Watchdog(late_after_s=30)
    watchdog.look(0)
    watchdog.ask(0)
    assert watchdog.look(2) is FINE
    watchdog.limit(2.5)
    assert watchdog.look(3) == Look(Finding.STUCK, 3)


def test_it_looks_several_times_before_a_loop_is_late_and_once_a_second_at_least() -> None:
    assert interval_s(3) == 1
    assert interval_s(0.3) == 0.3 / 3
    assert interval_s(60) == 1
    assert interval_s(0.001) == 0.01
