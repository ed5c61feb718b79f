from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serve_core.runtime.core import completion as core_completion
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


class SharedQueue(FakeQueue):
    """Tells when events were taken, and whether two threads have ever polled at once."""

    def __init__(self) -> None:
        super().__init__()
        self.polled_by_two = False
        self._polled = threading.Lock()
        self._changed = threading.Condition()
        self._added = 0
        self._taken = 0

    def add(self, tag: Callable[[Any], None]) -> None:
        self._added += 1
        super().add(tag)

    def poll(self, deadline: float | None) -> Any:
        if not self._polled.acquire(blocking=False):
            self.polled_by_two = True
            return super().poll(deadline)
        try:
            event = super().poll(deadline)
        finally:
            self._polled.release()
        if event is not NOTHING:
            with self._changed:
                self._taken += 1
                self._changed.notify()
        return event

    def wait_until_all_are_taken(self) -> bool:
        """Blocks the thread; False if it waits in vain."""
        with self._changed:
            return self._changed.wait_for(lambda: self._taken >= self._added, timeout=60.0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper stands in at once."""
    monkeypatch.setattr(core_completion, "BLOCKED_S", 0.001)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads are switched as often as can be."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("soon")
async def test_events_are_taken_while_a_handler_blocks_the_loop() -> None:
    events = SharedQueue()
    seen: list[Any] = []
    done = asyncio.Event()

    def block(_: Any) -> None:
        for number in range(5):
            events.add(lambda _, number=number: seen.append(number))  # type: ignore[misc]
        seen.append(events.wait_until_all_are_taken())
        events.add(lambda _: done.set())

    events.add(block)
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await done.wait()
    assert seen == [True, 0, 1, 2, 3, 4]
    await completion.close()
    assert not events.polled_by_two
    assert not events.polled_after_the_end


@pytest.mark.usefixtures("soon")
async def test_an_answer_leaves_while_the_next_handler_blocks_the_loop() -> None:
    events = FakeQueue()
    left, waited = threading.Event(), list[bool]()
    done = asyncio.Event()
    answer = SimpleNamespace(peer=lambda: "somebody", leave=left.set)
    completion = CompletionLoop(events, asyncio.get_running_loop())
    events.add(lambda _: completion.outbox.add(answer))
    events.add(lambda _: waited.append(left.wait(60.0)))
    events.add(lambda _: done.set())
    await done.wait()
    assert waited == [True]
    await completion.close()


@pytest.mark.usefixtures("soon")
async def test_events_are_taken_while_something_else_blocks_the_loop() -> None:
    events = SharedQueue()
    seen: list[int] = []
    came = asyncio.Event()
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await idle(events)
    for number in range(5):
        events.add(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    events.add(lambda _: came.set())
    assert events.wait_until_all_are_taken()
    assert seen == []
    await came.wait()
    assert seen == [0, 1, 2, 3, 4]
    await completion.close()


@pytest.mark.usefixtures("soon")
async def test_the_end_may_come_while_the_loop_is_blocked() -> None:
    events = SharedQueue()
    seen: list[str] = []

    def block(_: Any) -> None:
        events.add(lambda _: seen.append("after"))
        events.shutdown()
        assert events.wait_until_all_are_taken()
        seen.append("blocked")

    events.add(block)
    completion = CompletionLoop(events, asyncio.get_running_loop())
    completion.is_open = False
    await completion.close()
    assert seen == ["blocked", "after"]
    assert not events.polled_after_the_end


async def test_a_loop_that_comes_back_polls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    events = SharedQueue()
    came = asyncio.Event()

    def block(_: Any) -> None:
        monkeypatch.setattr(core_completion, "BLOCKED_S", 0.001)
        events.add(lambda _: came.set())
        assert events.wait_until_all_are_taken()
        monkeypatch.undo()

    monkeypatch.setattr(core_completion, "BLOCKED_S", 0.01)
    events.add(block)
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await came.wait()
    await idle(events)
    before = events.looks
    came.clear()
    events.add(lambda _: None)
    events.add(lambda _: came.set())
    await came.wait()
    await idle(events)
    assert events.looks > before
    await completion.close()


@pytest.mark.usefixtures("soon", "restless")
async def test_no_event_overtakes_another_however_often_the_loop_is_blocked() -> None:
    events = SharedQueue()
    seen: list[int] = []
    made = itertools.count()
    finished = asyncio.Event()

    def add() -> None:
        number = next(made)
        events.add(lambda _: handle(number))

    def handle(number: int) -> None:
        seen.append(number)
        if number == 4000:
            finished.set()
        if number < 4000:
            add()
        if number % 41 == 0:
            assert events.wait_until_all_are_taken()

    for _ in range(20):
        add()
    completion = CompletionLoop(events, asyncio.get_running_loop())
    await finished.wait()
    await completion.close()
    assert seen == list(range(len(seen)))
    assert len(seen) > 4000
    assert not events.polled_by_two
    assert not events.polled_after_the_end
