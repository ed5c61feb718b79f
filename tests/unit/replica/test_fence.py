"""A replica that stood still takes nothing new until the controller is heard."""

from __future__ import annotations

from replica.core.fence import Fence


def is_up(fence: Fence) -> bool:
    return fence.up


def test_a_process_that_runs_is_never_fenced() -> None:
    fence = Fence(limit_s=10)
    fence.arm(0)
    for now in range(100):
        assert not fence.alive(now)
    assert not is_up(fence)


def test_before_it_takes_requests_standing_still_does_not_matter() -> None:
    fence = Fence(limit_s=10)
    assert not fence.alive(0)
    assert not fence.alive(1000)
    fence.arm(1000)
    assert not fence.alive(1010)
    assert not is_up(fence)


def test_one_that_stood_still_waits_for_an_acknowledgement_that_is_newer() -> None:
    fence = Fence(limit_s=10)
    fence.arm(0)
    fence.beat(7)
    assert not fence.alive(1)
    assert fence.alive(11.5)
    assert is_up(fence)
    assert not fence.acknowledged(7)
    assert is_up(fence)
    fence.beat(8)
    assert fence.acknowledged(8)
    assert not is_up(fence)
    assert not fence.acknowledged(9)


def test_one_that_stands_still_again_waits_for_a_still_newer_one() -> None:
    fence = Fence(limit_s=10)
    fence.arm(0)
    assert fence.alive(20)
    fence.beat(1)
    assert fence.alive(40)
    assert not fence.acknowledged(1)
    fence.beat(2)
    assert fence.acknowledged(2)


def test_exactly_the_limit_is_not_too_long() -> None:
    fence = Fence(limit_s=10)
    fence.arm(5)
    assert not fence.alive(15)
    fence.limit(1)
    assert not fence.alive(16)
    assert fence.alive(17.5)


def test_a_later_look_than_the_one_that_raised_it_keeps_it_up() -> None:
    fence = Fence(limit_s=10)
    fence.arm(0)
    assert fence.alive(11)
    assert not fence.alive(11.5)
    assert is_up(fence)
