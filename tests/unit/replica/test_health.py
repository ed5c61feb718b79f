"""Failures in a row."""

from __future__ import annotations

from replica.core.health import Health


def test_it_is_ill_after_as_many_failures_in_a_row_as_the_threshold() -> None:
    health = Health(failure_threshold=3)
    assert [health.failed(), health.failed(), health.failed(), health.failed()] == [False, False, True, False]
    assert not health.healthy
    assert health.failures == 4


def test_a_check_that_passes_makes_it_well_again() -> None:
    health = Health(failure_threshold=2)
    assert not health.passed()
    health.failed()
    assert not health.passed()
    health.failed()
    assert health.healthy
    health.failed()
    assert health.passed()
    assert health.healthy
    assert health.failures == 0


def test_the_threshold_changes_live_and_is_at_least_one() -> None:
    health = Health(failure_threshold=0)
    assert health.healthy
    assert health.failed()
    assert health.limit(2)
    assert not health.limit(3)
    assert health.healthy
