"""Quantiles, coordinated omission and ratios, by hand."""

import pytest

from bench.report.statistics import (
    Spread,
    closed_loop_ms,
    corrected,
    latencies,
    open_loop_ms,
    quantile,
    ratios,
)


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_a_quantile_is_the_value_below_which_that_share_is(share: float, wanted: int) -> None:
    assert quantile(range(1, 101), share) == wanted


def test_there_is_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)


def test_a_call_that_was_sent_late_is_timed_from_when_it_was_due() -> None:
    # The server stood still from 0 to 3: the calls due at 1 and 2 were answered together with the first.
    assert latencies(due=[0.0, 1.0, 2.0, 3.0], ended=[3.0, 3.0, 3.0, 3.5]) == [0.5, 1.0, 2.0, 3.0]


def test_what_a_held_caller_left_unsent_is_added() -> None:
    assert corrected([1.0, 1.0, 5.0], interval=1.0) == [1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_calls_at_their_pace_are_left_alone() -> None:
    assert corrected([1.9, 1.0, 1.5], interval=1.0) == [1.0, 1.5, 1.9]


def test_without_a_pace_nothing_is_added() -> None:
    assert corrected([3.0, 1.0], interval=0.0) == [1.0, 3.0]


def test_a_stall_shows_in_the_tail_only_when_it_is_corrected() -> None:
    taken = [0.001] * 999 + [1.0]
    assert quantile(sorted(taken), 0.99) == 0.001
    assert quantile(corrected(taken, 0.001), 0.99) > 0.9


def test_a_closed_loop_is_told_with_its_median_as_it_was_and_its_tail_corrected() -> None:
    found = closed_loop_ms([1.0, *[0.001] * 999])
    assert found["p50_ms"] == 1.0
    assert found["p99_ms"] > 900


def test_an_open_loop_is_told_from_when_calls_were_due() -> None:
    assert open_loop_ms([0.0, 1.0, 2.0], [3.0, 3.0, 3.0]) == {"p50_ms": 2000.0, "p99_ms": 3000.0}


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was half as fast in the second round, for both.
    assert ratios([10.0, 5.0, 10.0], [5.0, 2.5, 5.0]) == [2.0, 2.0, 2.0]


def test_a_spread_is_the_median_and_both_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, least=1.0, most=3.0)
