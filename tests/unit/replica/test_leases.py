"""Times to live, and which promise ends first."""

from __future__ import annotations

from replica.core.leases import LeasePolicy, LeaseQueue


def test_what_is_asked_for_is_granted_up_to_the_maximum() -> None:
    policy = LeasePolicy(default_s=10, max_s=60)
    assert [policy.granted_s(asked_s) for asked_s in (None, 0, -1, 5, 60, 61)] == [10, 10, 10, 5, 60, 60]
    assert LeasePolicy(default_s=10, max_s=3).granted_s(None) == 3


def test_leases_end_in_order_each_once() -> None:
    queue = LeaseQueue()
    queue.set("b", 2)
    queue.set("a", 1)
    queue.set("c", 3)
    assert queue.deadline() == 1
    assert queue.due(0.5) == []
    assert queue.due(2) == ["a", "b"]
    assert queue.due(2) == []
    assert len(queue) == 1


def test_moved_and_removed_leases_do_not_end_at_their_old_time() -> None:
    queue = LeaseQueue()
    queue.set("a", 1)
    queue.set("b", 2)
    queue.set("a", 5)
    queue.remove("b")
    queue.remove("b")
    assert queue.due(4) == []
    assert queue.deadline() == 5
    queue.set("a", 4)
    assert queue.due(4) == ["a"]
    assert queue.deadline() is None


def test_renewing_for_ever_keeps_every_lease() -> None:
    queue = LeaseQueue()
    for moment in range(1000):
        queue.set("a", moment)
        queue.set("b", 2000 - moment)
    assert queue.due(999) == ["a"]
    assert queue.deadline() == 1001
