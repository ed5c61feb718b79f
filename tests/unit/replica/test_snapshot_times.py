"""When an actor saves its state."""

from __future__ import annotations

from replica.core.snapshots import BY_TIME, REQUESTS_MAX, SnapshotTimes


def test_without_an_interval_nothing_is_due_by_time() -> None:
    times = SnapshotTimes(now=0.0)
    assert times.deadline() is None
    assert times.take(1e9) is None


def test_the_interval_counts_from_when_the_last_state_was_taken() -> None:
    times = SnapshotTimes(now=10.0)
    times.every(5.0)
    assert times.deadline() == 15.0
    assert times.take(14.9) is None
    assert times.take(15.0) == BY_TIME
    times.saved(15.2)
    assert times.deadline() == 20.2


def test_what_failed_is_tried_again_sooner_but_never_later_than_by_time() -> None:
    times = SnapshotTimes(now=0.0)
    times.every(5.0)
    times.failed(5.0, retry_s=0.5)
    assert times.deadline() == 5.5
    times.failed(5.5, retry_s=60.0)
    assert times.deadline() == 10.5
    times.saved(10.5)
    assert times.deadline() == 15.5


def test_requests_go_first_in_their_order_and_each_once() -> None:
    times = SnapshotTimes(now=0.0)
    times.every(1.0)
    for request in (4, 2, 4):
        assert times.ask(request)
    assert [times.take(9.0), times.take(9.0), times.take(9.0)] == [4, 2, BY_TIME]


def test_requests_of_a_controller_that_is_gone_are_forgotten_and_many_are_refused() -> None:
    times = SnapshotTimes(now=0.0)
    asked = [times.ask(request) for request in range(1, REQUESTS_MAX + 2)]
    assert asked == [True] * REQUESTS_MAX + [False]
    times.forget_requests()
    assert times.take(0.0) is None
    assert times.ask(1)
    assert times.take(0.0) == 1
