"""Many deadlines by one timer: each is told once, not early, and not once it was cleared."""

from __future__ import annotations

import asyncio

from serve_core.runtime.clock import monotonic
from serve_core.runtime.deadlines import Deadlines


class Call:
    def __init__(self) -> None:
        self.told_at: list[float] = []
        self.told = asyncio.Event()

    def overdue(self) -> None:
        self.told_at.append(monotonic())
        self.told.set()


async def test_it_tells_each_once_and_not_early() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    late, later = Call(), Call()
    began = monotonic()
    # The one that is due later is set first: the timer has to move.
    deadlines.set(0.05, later)
    deadlines.set(0.01, late)
    await later.told.wait()
    assert len(late.told_at) == len(later.told_at) == 1
    assert late.told_at[0] - began >= 0.01
    assert later.told_at[0] - began >= 0.05
    assert len(deadlines) == 0


async def test_what_was_cleared_is_not_told() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    over, late = Call(), Call()
    tick = deadlines.set(0.01, over)
    deadlines.clear(tick, over)
    deadlines.set(0.02, late)
    await late.told.wait()
    assert not over.told_at


async def test_those_of_one_tick_do_not_clear_each_other() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    calls = [Call() for _ in range(100)]
    ticks = [deadlines.set(0.02, call) for call in calls]
    for tick, call in zip(ticks[::2], calls[::2], strict=True):
        deadlines.clear(tick, call)
    assert len(deadlines) == 50
    for call in calls[1::2]:
        await call.told.wait()
    assert [len(call.told_at) for call in calls] == [0, 1] * 50


async def test_clearing_what_was_told_is_nothing() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    late = Call()
    tick = deadlines.set(0.0, late)
    await late.told.wait()
    deadlines.clear(tick, late)
    assert len(deadlines) == 0


async def test_a_deadline_may_be_set_while_others_are_told() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    second = Call()

    class Again(Call):
        def overdue(self) -> None:
            super().overdue()
            deadlines.set(0.0, second)

    deadlines.set(0.0, Again())
    await second.told.wait()


async def test_a_deadline_may_be_farther_away_than_any_timer() -> None:
    deadlines = Deadlines(asyncio.get_running_loop())
    far, late = Call(), Call()
    tick = deadlines.set(1e12, far)
    deadlines.set(0.0, late)
    await late.told.wait()
    deadlines.clear(tick, far)
    assert not far.told_at
