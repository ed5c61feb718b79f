"""Streams whose messages the events of the core carry on: as if each had been written, but without a task that wakes for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from serve_core.runtime.core.pump import GATHERED_BYTES, MESSAGE_COST_BYTES, Pump
from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import Rig, everything, refusal, serving


class Box:
    """A source that its test fills."""

    def __init__(self, *messages: bytes, ended: bool = False) -> None:
        self.messages = deque(messages)
        self.ended = ended
        self.taken = 0
        self.on_news: Callable[[], None] | None = None

    @property
    def ready(self) -> bool:
        return bool(self.messages)

    def take(self) -> bytes:
        self.taken += 1
        return self.messages.popleft()

    def tell(self, on_news: Callable[[], None] | None) -> None:
        self.on_news = on_news

    def put(self, message: bytes) -> None:
        self.messages.append(message)
        self._news()

    def end(self) -> None:
        self.ended = True
        self._news()

    def _news(self) -> None:
        if self.on_news is not None:
            self.on_news()


class Core:
    """Takes messages when its test says so."""

    def __init__(self) -> None:
        self.open = True
        self.asked: list[tuple[bytes, bool]] = []
        self.tag: Callable[[Any], None] | None = None

    def ask(self, raw: bytes, waits: bool, tag: Callable[[Any], None]) -> bool:
        assert self.tag is None, "two messages at once"
        if self.open:
            self.asked.append((raw, waits))
            self.tag = tag
        return self.open

    def took(self, *, success: bool = True) -> None:
        tag, self.tag = self.tag, None
        assert tag is not None
        tag(type("Event", (), {"success": success}))


def passes(message: bytes) -> None:
    """Lets every message pass."""


def pumped(box: Box, check: Callable[[bytes], None] = passes) -> tuple[Core, Pump, asyncio.Future[bool], list[str]]:
    core, freed = Core(), list[str]()
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    pump = Pump(box, check, core.ask, over, lambda: freed.append("free"))
    box.tell(pump.go_on)
    pump.go_on()
    return core, pump, over, freed


async def test_what_was_not_sent_is_not_taken() -> None:
    box = Box(b"a", b"b", b"c")
    core, _, over, _ = pumped(box)
    assert box.taken == 1
    box.put(b"d")
    assert box.taken == 1
    core.took()
    assert box.taken == 2
    for _ in range(3):
        core.took()
    assert [raw for raw, _ in core.asked] == [b"a", b"b", b"c", b"d"]
    assert not over.done()
    box.end()
    assert over.done()


async def test_a_message_waits_only_for_one_that_is_ready_and_not_for_many() -> None:
    box = Box(*[b"m"] * 500)
    core, *_ = pumped(box)
    while core.tag is not None:
        core.took()
    waited = [waits for _, waits in core.asked]
    most = GATHERED_BYTES // (1 + MESSAGE_COST_BYTES)
    assert not waited[-1]
    assert waited.count(False) == 500 // (most + 1) + 1
    box.put(b"alone")
    assert core.asked[-1] == (b"alone", False)
    core.took()
    box.messages.append(b"x" * GATHERED_BYTES)
    box.put(b"next")
    assert core.asked[-1][1] is False, "a large message waits for nobody"


async def test_what_is_refused_ends_it() -> None:
    def check(message: bytes) -> None:
        if message == b"bad":
            raise ValueError(message)

    core, pump, over, _ = pumped(Box(b"good", b"bad", b"good"), check)
    core.took()
    assert not pump.busy
    assert isinstance(over.exception(), ValueError)
    assert len(core.asked) == 1


@pytest.mark.parametrize("when", ["asked", "taken"])
async def test_a_call_that_is_over_ends_it(when: str) -> None:
    box = Box(b"a")
    core, _, over, _ = pumped(box)
    core.open = when == "taken"
    box.messages.append(b"b")
    core.took(success=when == "asked")
    assert isinstance(over.exception(), grpc.aio.InternalError)


async def test_a_cancelled_one_leaves_its_message_under_way() -> None:
    box = Box(b"a", b"b")
    core, pump, over, freed = pumped(box)
    over.cancel()
    pump.go_on()
    assert pump.busy
    assert not freed
    core.took()
    assert freed == ["free"]
    assert box.taken == 1


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with serving(Engine.CORE) as one:
        yield one


async def test_each_message_goes_at_once_and_all_in_order(rig: Rig) -> None:
    box = Box()

    async def many(request: bytes, context: Any) -> None:
        await context.send_from(box, passes)

    rig.method("many", many)
    answers = aiter(rig.many())
    for number in range(20):
        box.put(b"%d" % number)
        assert await anext(answers) == b"%d" % number
    burst = [b"%d" % number for number in range(1000)]
    for message in burst:
        box.put(message)
    box.end()
    assert [message async for message in answers] == burst


async def test_a_stream_may_be_empty(rig: Rig) -> None:
    async def many(request: bytes, context: Any) -> None:
        await context.send_from(Box(ended=True), passes)
        context.set_trailing_metadata((("after", "all"),))

    rig.method("many", many)
    call = rig.many()
    assert await everything(call) == []
    assert ("after", "all") in list(await call.trailing_metadata())


async def test_a_reader_that_stands_still_leaves_the_source_alone_and_others_go_on(rig: Rig) -> None:
    # Far more than sockets hold on any system.
    box = Box(*[b"z" * 10_000] * 20_000, ended=True)

    async def many(request: bytes, context: Any) -> None:
        await context.send_from(box, passes)

    async def one(request: bytes, context: Any) -> bytes:
        return b""

    rig.method("many", many)
    rig.method("one", one)
    answers = aiter(rig.many())
    await anext(answers)
    for _ in range(100):
        await rig.one()
    assert box.ready
    box.messages.clear()
    assert len([message async for message in answers]) == box.taken - 1


async def test_a_caller_that_goes_ends_it(rig: Rig) -> None:
    box, left = Box(b"first"), asyncio.Event()

    async def many(request: bytes, context: Any) -> None:
        try:
            await context.send_from(box, passes)
        finally:
            left.set()

    rig.method("many", many)
    call = rig.many()
    await anext(aiter(call))
    call.cancel()
    await left.wait()
    assert box.on_news is None


async def test_a_failure_comes_after_what_was_sent(rig: Rig) -> None:
    async def many(request: bytes, context: Any) -> None:
        def check(message: bytes) -> None:
            if message == b"bad":
                raise ValueError("no good")

        try:
            await context.send_from(Box(*[b"good"] * 100, b"bad"), check)
        except ValueError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))

    rig.method("many", many)
    call = rig.many()
    got: list[bytes] = []

    async def read() -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            got.append(message)

    assert (await refusal(read())).code() is grpc.StatusCode.DATA_LOSS
    assert got == [b"good"] * 100


async def test_who_writes_meanwhile_comes_after_it(rig: Rig) -> None:
    box = Box(b"1", b"2")

    async def many(request: bytes, context: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(context.send_from(box, passes))
            await asyncio.sleep(0)
            last = group.create_task(context.write(b"4"))
            await asyncio.sleep(0)
            box.put(b"3")
            box.end()
            await last

    rig.method("many", many)
    assert await everything(rig.many()) == [b"1", b"2", b"3", b"4"]


async def test_one_that_is_given_up_can_be_followed_by_writing(rig: Rig) -> None:
    async def many(request: bytes, context: Any) -> None:
        sending = asyncio.ensure_future(context.send_from(Box(b"1"), passes))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait((sending,))
        await context.write(b"2")

    rig.method("many", many)
    assert await everything(rig.many()) == [b"1", b"2"]
