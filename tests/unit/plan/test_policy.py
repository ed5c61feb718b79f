from __future__ import annotations

from serve_core.plan.policy import Policy


def test_waits_double_up_to_a_limit() -> None:
    policy = Policy(backoff_jitter=0.0)
    assert [policy.backoff_s(failures, unit_random=0.9) for failures in (0, 1, 2, 3, 7, 10_000)] == [
        0.5,
        0.5,
        1.0,
        2.0,
        30.0,
        30.0,
    ]


def test_the_lot_only_shortens() -> None:
    policy = Policy()
    assert policy.backoff_s(2, unit_random=0.0) == 1.0
    assert policy.backoff_s(2, unit_random=0.5) == 0.9
