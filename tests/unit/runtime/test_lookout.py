"""Calls that last ask whether their callers are gone; those that are over soon need not."""

from __future__ import annotations

import asyncio

from serve_core.runtime.core.lookout import Lookout


class Lasting:
    """A call that knows whether it was asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.times = 0

    def watch_close(self) -> None:
        self.times += 1
        self.asked.set()


async def test_each_call_is_asked_for_once_and_not_at_once() -> None:
    lookout = Lookout(asyncio.get_running_loop())
    first, second, third = Lasting(), Lasting(), Lasting()
    lookout.add(first)
    lookout.add(second)
    assert not first.times
    await first.asked.wait()
    await second.asked.wait()
    lookout.add(third)
    assert not third.times
    await third.asked.wait()
    assert [call.times for call in (first, second, third)] == [1, 1, 1]
    assert lookout._timer is None  # Nothing is looked for while there is nothing.


async def test_in_a_hurry_all_are_asked_for_and_each_that_comes() -> None:
    lookout = Lookout(asyncio.get_running_loop())
    early, late = Lasting(), Lasting()
    lookout.add(early)
    lookout.hurry()
    lookout.add(late)
    assert (early.times, late.times) == (1, 1)
    assert lookout._timer is None
