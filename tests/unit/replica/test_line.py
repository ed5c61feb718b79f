"""Calls of an actor wait for its slots in the order in which they came."""

from __future__ import annotations

import asyncio

import pytest

from replica import line as line_module
from replica.calls import Claim
from replica.core.leases import LeasePolicy
from replica.desk import Occupancy, SlotDesk
from replica.line import Line
from serve_core.errors import ConfigInvalidError, DrainingError, QueueFullError, ReplicaUnavailableError
from serve_core.model.ids import ReplicaId


def desk_of(capacity: int) -> SlotDesk:
    desk = SlotDesk(replica_id=ReplicaId("app.dep.g1-0"), epoch=1)
    desk.configure(capacity=capacity, leases=LeasePolicy(default_s=10.0, max_s=60.0))
    desk.open()
    return desk


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_run_in_the_order_in_which_they_came() -> None:
    desk = desk_of(1)
    line = Line(desk)
    first = await line.admit(Claim())
    order: list[int] = []

    async def wait(number: int) -> Occupancy:
        occupancy = await line.admit(Claim())
        order.append(number)
        return occupancy

    waiting = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await settled()
    assert order == []
    for number, task in enumerate(waiting):
        first.finish(ok=True)
        first = await task
        await settled()
        assert order == list(range(number + 1))
    first.finish(ok=True)
    desk.check()
    assert desk.idle


async def test_one_that_needs_many_slots_is_not_overtaken() -> None:
    desk = desk_of(2)
    line = Line(desk)
    first, second = await line.admit(Claim()), await line.admit(Claim())
    big = asyncio.ensure_future(line.admit(Claim(slots=2)))
    small = asyncio.ensure_future(line.admit(Claim()))
    await settled()
    first.finish(ok=True)
    await settled()
    assert not small.done()
    second.finish(ok=True)
    (await big).finish(ok=True)
    (await small).finish(ok=True)
    assert desk.idle


async def test_one_that_gives_up_leaves_its_turn_to_the_next() -> None:
    desk = desk_of(1)
    line = Line(desk)
    held = await line.admit(Claim())
    gone, following = (asyncio.ensure_future(line.admit(Claim())) for _ in range(2))
    await settled()
    gone.cancel()
    await settled()
    held.finish(ok=True)
    (await following).finish(ok=True)
    assert desk.idle


async def test_one_that_gives_up_in_the_middle_changes_nothing_for_the_others() -> None:
    desk = desk_of(1)
    line = Line(desk)
    held = await line.admit(Claim())
    first, gone, last = (asyncio.ensure_future(line.admit(Claim())) for _ in range(3))
    await settled()
    gone.cancel()
    await settled()
    assert gone.cancelled()
    held.finish(ok=True)
    await settled()
    assert (first.done(), last.done()) == (True, False)
    first.result().finish(ok=True)
    (await last).finish(ok=True)
    assert desk.idle


async def test_a_drain_refuses_all_that_wait() -> None:
    desk = desk_of(1)
    line = Line(desk)
    held = await line.admit(Claim())
    waiting = [asyncio.ensure_future(line.admit(Claim())) for _ in range(3)]
    await settled()
    desk.drain()
    for task in waiting:
        with pytest.raises(DrainingError):
            await task
    held.finish(ok=True)


async def test_it_is_as_long_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "WAITING_MAX", 1)
    desk = desk_of(1)
    line = Line(desk)
    held = await line.admit(Claim())
    waiting = asyncio.ensure_future(line.admit(Claim()))
    await settled()
    with pytest.raises(QueueFullError, match="nothing was run"):
        await line.admit(Claim())
    held.finish(ok=True)
    (await waiting).finish(ok=True)


async def test_other_refusals_come_at_once() -> None:
    line = Line(desk_of(1))
    with pytest.raises(ConfigInvalidError):
        await line.admit(Claim(slots=2))
    shut = SlotDesk(replica_id=ReplicaId("app.dep.g1-0"), epoch=1)
    with pytest.raises(ReplicaUnavailableError):
        await Line(shut).admit(Claim())


async def test_a_process_that_stood_still_refuses_all_that_wait() -> None:
    desk = desk_of(1)
    line = Line(desk)
    held = await line.admit(Claim())
    waiting = [asyncio.ensure_future(line.admit(Claim())) for _ in range(2)]
    await settled()
    desk.configure(capacity=1, leases=LeasePolicy(default_s=10.0, max_s=60.0), fence_limit_s=-1.0)
    desk.alive()
    for task in waiting:
        with pytest.raises(DrainingError):
            await task
    held.finish(ok=True)
