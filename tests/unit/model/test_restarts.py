"""When a dead process is started again."""

from __future__ import annotations

from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy

POLICY = RestartPolicy(restarts_max=3, window_s=60.0, backoff=Backoff(initial_s=1.0, factor=2.0, max_s=3.0, jitter=0.0))


def delay_s(*ends: float) -> float | None:
    return POLICY.delay_s(ends, now=ends[-1], unit_random=0.0)


def test_each_restart_waits_longer_than_the_one_before() -> None:
    assert [delay_s(100.0), delay_s(100.0, 101.0), delay_s(100.0, 101.0, 102.0)] == [1.0, 2.0, 3.0]


def test_too_often_is_the_end() -> None:
    assert delay_s(100.0, 101.0, 102.0, 103.0) is None


def test_what_is_long_ago_does_not_count() -> None:
    assert delay_s(42.0, 101.0, 102.0, 103.0) == 3.0
    assert delay_s(1.0, 2.0, 3.0, 1000.0) == 1.0
