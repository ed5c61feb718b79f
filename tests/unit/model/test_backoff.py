"""Delays grow, stay bounded, and jitter only shortens them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.model.backoff import Backoff


def test_without_jitter_each_delay_is_the_factor_longer_up_to_the_maximum() -> None:
    backoff = Backoff(initial_s=0.1, factor=2.0, max_s=1.0, jitter=0.0)

    assert [backoff.delay_s(attempt, 0.7) for attempt in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_jitter_takes_away_its_part() -> None:
    backoff = Backoff(initial_s=1.0, factor=2.0, max_s=8.0, jitter=0.25)

    assert backoff.delay_s(1, 0.0) == 2.0
    assert backoff.delay_s(1, 1.0) == 1.5


def test_after_very_many_attempts_the_delay_is_the_maximum() -> None:
    assert Backoff(initial_s=0.1, factor=3.0, max_s=7.0, jitter=0.0).delay_s(100_000, 0.5) == 7.0


def test_a_negative_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="attempt"):
        Backoff().delay_s(-1, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("initial_s", 0.0), ("factor", 0.5), ("max_s", 0.01), ("jitter", 1.5), ("jitter", -0.1), ("max_s", float("nan"))],
)
def test_a_field_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Backoff(**{field: value})


@given(
    attempt=st.integers(0, 10_000),
    unit=st.floats(0, 1),
    jitter=st.floats(0, 1),
    factor=st.floats(1, 10),
)
def test_every_delay_is_between_nothing_and_the_maximum(
    attempt: int, unit: float, jitter: float, factor: float
) -> None:
    backoff = Backoff(initial_s=0.2, factor=factor, max_s=5.0, jitter=jitter)

    assert 0 <= backoff.delay_s(attempt, unit) <= 5.0
