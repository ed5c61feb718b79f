"""Answers of one turn of the loop leave together, and none waits for long."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve_core.runtime.core import outbox as core_outbox
from serve_core.runtime.core.outbox import ANSWERS_MAX, AT_ONCE, SLOW_S, Outbox


class Connections:
    """Records what happens, in order."""

    def __init__(self, *, unknown: frozenset[str] = frozenset()) -> None:
        self.seen: list[str] = []
        self._unknown = unknown
        self._names: list[str] = []

    def hold(self, peer: str) -> int | None:
        if peer in self._unknown:
            return None
        self.seen.append(f"hold {peer}")
        self._names.append(peer)
        return len(self._names) - 1

    def let_go(self, descriptor: int) -> None:
        self.seen.append(f"let go {self._names[descriptor]}")

    def answer(self, peer: str, name: str = "answer") -> OneAnswer:
        return OneAnswer(self.seen, peer, name)


class OneAnswer:
    def __init__(self, seen: list[str], peer: str, name: str) -> None:
        self._seen = seen
        self._peer = peer
        self._name = name

    def peer(self) -> str:
        return self._peer

    def leave(self) -> None:
        self._seen.append(self._name)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(core_outbox, "monotonic", clock)
    return clock


@pytest.mark.usefixtures("clock")
async def test_those_to_one_connection_are_held_back_and_let_go_together() -> None:
    there = Connections(unknown=frozenset("u"))
    outbox = Outbox(asyncio.get_running_loop(), there)
    for peer, name in (("a", "1"), ("b", "2"), ("a", "3"), ("u", "4"), ("u", "5"), ("a", "6")):
        outbox.add(there.answer(peer, name))
    assert there.seen == []
    await asyncio.sleep(0)
    assert there.seen == ["hold a", "1", "3", "6", "let go a", "2", "4", "5"]
    await asyncio.sleep(0)
    assert len(there.seen) == 8


@pytest.mark.usefixtures("clock")
async def test_a_lone_answer_needs_no_connection() -> None:
    there = Connections()
    outbox = Outbox(asyncio.get_running_loop(), there)
    outbox.add(there.answer("a"))
    await asyncio.sleep(0)
    assert there.seen == ["answer"]


@pytest.mark.usefixtures("clock")
async def test_within_a_turn_whoever_ends_it_sends() -> None:
    there = Connections()
    outbox = Outbox(asyncio.get_running_loop(), there)
    outbox.in_turn = True
    outbox.add(there.answer("a"))
    await asyncio.sleep(0)
    assert there.seen == []
    outbox.send()
    assert there.seen == ["answer"]
    outbox.send()
    assert there.seen == ["answer"]


@pytest.mark.usefixtures("clock")
async def test_many_do_not_wait_for_the_end_of_the_turn() -> None:
    there = Connections()
    outbox = Outbox(asyncio.get_running_loop(), there)
    for _ in range(ANSWERS_MAX):
        outbox.add(there.answer("a"))
    assert there.seen == ["hold a", *["answer"] * ANSWERS_MAX, "let go a"]


async def test_where_the_loop_is_slow_answers_leave_at_once(clock: Clock) -> None:
    there = Connections()
    outbox = Outbox(asyncio.get_running_loop(), there)
    outbox.in_turn = True
    outbox.add(there.answer("a"))
    clock.now += 2 * SLOW_S
    outbox.add(there.answer("b"))
    assert there.seen == ["answer", "answer"]
    for count in range(AT_ONCE):
        outbox.add(there.answer("a"))
        assert len(there.seen) == 3 + count
    outbox.add(there.answer("a"))
    assert len(there.seen) == 2 + AT_ONCE
    outbox.send()
    assert len(there.seen) == 3 + AT_ONCE


@pytest.mark.usefixtures("clock")
async def test_no_answer_leaves_twice_where_two_threads_send() -> None:
    there = Connections()
    outbox = Outbox(asyncio.get_running_loop(), there)
    outbox.in_turn = True
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            outbox.send()

    thread = threading.Thread(target=send)
    thread.start()
    for number in range(5000):
        outbox.add(there.answer("a", str(number)))
        if number % 3 == 0:
            outbox.send()
    over.set()
    thread.join()
    outbox.send()
    assert sorted(int(one) for one in there.seen if one.isdecimal()) == list(range(5000))
    assert there.seen.count("hold a") == there.seen.count("let go a")
