"""The end of a replica, within one budget."""

from __future__ import annotations

from replica.core.drain import Drain, DrainPhase


def test_a_replica_serves_until_it_is_told_to_drain() -> None:
    drain = Drain()
    assert drain.advance(idle=True, now=100) is DrainPhase.SERVING
    assert drain.deadline() is None
    assert drain.remaining_s(100) == 0


def test_an_idle_replica_is_done_at_once() -> None:
    drain = Drain()
    assert drain.begin(budget_s=30, now=0)
    assert drain.phase is DrainPhase.FINISHING
    assert drain.advance(idle=True, now=0) is DrainPhase.DONE
    assert drain.deadline() is None


def test_a_busy_replica_finishes_within_the_budget_and_no_later() -> None:
    drain = Drain()
    drain.begin(budget_s=30, now=10)
    assert drain.deadline() == 40
    assert drain.advance(idle=False, now=39.9) is DrainPhase.FINISHING
    assert drain.remaining_s(39.5) == 0.5
    assert drain.advance(idle=False, now=40) is DrainPhase.DONE


def test_the_hook_runs_once_idle_with_what_is_left() -> None:
    drain = Drain(cleans_up=True)
    drain.begin(budget_s=30, now=0)
    assert drain.advance(idle=True, now=10) is DrainPhase.CLEANING
    assert drain.deadline() == 30
    assert drain.remaining_s(10) == 20
    assert drain.advance(idle=True, now=29) is DrainPhase.CLEANING
    drain.cleaned_up()
    assert drain.phase is DrainPhase.DONE
    drain.cleaned_up()
    assert drain.remaining_s(100) == 0


def test_a_part_of_the_budget_is_kept_for_the_hook() -> None:
    drain = Drain(cleans_up=True)
    drain.begin(budget_s=30, now=0)
    assert drain.deadline() == 27
    assert drain.advance(idle=False, now=27) is DrainPhase.CLEANING
    assert drain.advance(idle=False, now=30) is DrainPhase.DONE
    long = Drain(cleans_up=True)
    long.begin(budget_s=600, now=0)
    assert long.deadline() == 595


def test_a_drain_is_idempotent_and_can_only_be_shortened() -> None:
    drain = Drain()
    drain.begin(budget_s=30, now=0)
    assert not drain.begin(budget_s=30, now=5)
    assert drain.deadline() == 30
    assert drain.begin(budget_s=1, now=5)
    assert drain.deadline() == 6
    drain.cleaned_up()
    assert drain.phase is DrainPhase.FINISHING


def test_a_budget_that_is_not_positive_ends_at_once() -> None:
    drain = Drain(cleans_up=True)
    drain.begin(budget_s=-1, now=5)
    assert drain.advance(idle=False, now=5) is DrainPhase.DONE


def test_stop_ends_a_drain_whatever_is_held() -> None:
    drain = Drain()
    drain.stop()
    assert drain.advance(idle=False, now=0) is DrainPhase.DONE
    drain.begin(budget_s=30, now=0)
    assert drain.phase is DrainPhase.DONE


def test_a_member_that_is_held_waits_until_it_is_released() -> None:
    drain = Drain(cleans_up=True)
    assert drain.begin(budget_s=30, now=0, hold=True)
    assert drain.advance(idle=False, now=5) is DrainPhase.FINISHING
    assert drain.advance(idle=True, now=10) is DrainPhase.HELD
    assert drain.deadline() == 27
    assert not drain.begin(budget_s=30, now=11, hold=True)
    assert drain.advance(idle=True, now=11) is DrainPhase.HELD
    assert drain.begin(budget_s=19, now=11)
    assert drain.advance(idle=True, now=11) is DrainPhase.CLEANING
    assert drain.deadline() == 30
    drain.cleaned_up()
    assert drain.phase is DrainPhase.DONE


def test_a_member_that_is_held_ends_with_its_budget() -> None:
    drain = Drain(cleans_up=True)
    drain.begin(budget_s=30, now=0, hold=True)
    assert drain.advance(idle=True, now=1) is DrainPhase.HELD
    assert drain.advance(idle=True, now=27) is DrainPhase.CLEANING
    assert drain.advance(idle=True, now=30) is DrainPhase.DONE


def test_a_member_that_is_released_while_it_is_busy_does_not_wait_once_it_is_idle() -> None:
    drain = Drain()
    drain.begin(budget_s=30, now=0, hold=True)
    assert drain.begin(budget_s=30, now=5)
    assert drain.advance(idle=False, now=6) is DrainPhase.FINISHING
    assert drain.advance(idle=True, now=7) is DrainPhase.DONE


def test_what_was_released_is_not_held_again() -> None:
    drain = Drain()
    drain.begin(budget_s=30, now=0)
    drain.begin(budget_s=20, now=0, hold=True)
    assert drain.ends_at == 20
    assert drain.advance(idle=True, now=1) is DrainPhase.DONE
