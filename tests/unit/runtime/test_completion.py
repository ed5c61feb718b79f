from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serve_core.runtime.core.binding import cygrpc
from serve_core.runtime.core.completion import EVENTS_PER_TURN, CompletionLoop

DONE = cygrpc.CompletionType.operation_complete
NOTHING = SimpleNamespace(completion_type=cygrpc.CompletionType.queue_timeout)
OVER = SimpleNamespace(completion_type=cygrpc.CompletionType.queue_shutdown)


class FakeQueue:
    """A completion queue whose events the test makes, and that counts how often it is looked into."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.looks = 0
        self.polled_after_the_end = False
        self._over = False

    def add(self, tag: Callable[[Any], None]) -> None:
        self._events.put(SimpleNamespace(completion_type=DONE, tag=tag))

    def shutdown(self) -> None:
        self._events.put(OVER)

    def poll(self, deadline: float | None) -> Any:
        self.polled_after_the_end |= self._over
        if deadline is None:
            event = self._events.get()
        else:
            self.looks += 1
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return NOTHING
        self._over = event is OVER
        return event


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def idle(events: FakeQueue) -> None:
    """Waits until the loop does not look for events any more."""
    before = -1
    while before != events.looks:
        before = events.looks
        await ticks(2)


async def test_an_idle_loop_looks_for_nothing() -> None:
    events = FakeQueue()
    completion = CompletionLoop(events, asyncio.get_running_loop())
    for _ in range(20):
        came = asyncio.Event()
        events.add(lambda _, came=came: came.set())  # type: ignore[misc]
        await came.wait()
        await idle(events)
        looks = events.looks
        await ticks(50)
        assert events.looks == looks
    assert events.looks <= 20 * 2
    await completion.close()
    assert not events.polled_after_the_end


async def test_many_events_are_handled_in_order_and_let_other_work_go_on() -> None:
    events = FakeQueue()
    seen: list[int] = []
    for number in range(3 * EVENTS_PER_TURN):
        events.add(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    completion = CompletionLoop(events, asyncio.get_running_loop())
    most = 0
    while len(seen) < 3 * EVENTS_PER_TURN:
        before = len(seen)
        await asyncio.sleep(0)
        most = max(most, len(seen) - before)
    assert seen == list(range(3 * EVENTS_PER_TURN))
    assert most <= EVENTS_PER_TURN
    await completion.close()


async def test_what_one_event_raises_does_not_end_the_others() -> None:
    events = FakeQueue()
    came = asyncio.Event()
    events.add(lambda _: 1 / 0)  # type: ignore[arg-type]
    events.add(lambda _: came.set())
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await came.wait()
    await completion.close()


async def test_closing_goes_on_when_who_asked_for_it_was_cancelled() -> None:
    events = FakeQueue()
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await idle(events)
    first = asyncio.ensure_future(completion.close())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(completion.close(), completion.close())
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not completion.is_open
    assert not events.polled_after_the_end


def test_a_loop_that_was_closed_first_lets_the_helper_go() -> None:
    events = FakeQueue()

    async def leave() -> CompletionLoop:
        return CompletionLoop(events, asyncio.get_running_loop())

    completion = asyncio.run(leave())
    events.add(lambda _: None)
    completion._thread.join(10.0)
    assert not completion._thread.is_alive()
