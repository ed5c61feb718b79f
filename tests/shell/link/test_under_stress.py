"""Calls of every kind at once, some of which are given up, run out of time, or fail: nothing of them is left at either end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.shell.link.pipes import Linked, linked, settled

CALLS = 200
SIZES = (0, 10, 1000, 70_000, 300_000)


async def one(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(len(request) % 7 / 1000)
    return request


async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(5):
        yield request
        await asyncio.sleep(0)


async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request
    await context.abort(grpc.StatusCode.DATA_LOSS, "enough")


class Caller:
    """Makes a call as ``chance`` has it, and says how it ended, None if it was given up; what came must be right."""

    def __init__(self, pair: Linked, chance: random.Random) -> None:
        self._pair = pair
        self._chance = chance
        self._mark = b"%d." % chance.randrange(10**9)

    async def __call__(self) -> grpc.StatusCode | None:
        request = self._mark.ljust(self._chance.choice(SIZES), b"x")
        timeout_s = self._chance.choice((None, None, 60.0, 0.0))
        call = asyncio.ensure_future(getattr(self, self._chance.choice(("one", "many", "chat")))(request, timeout_s))
        if self._chance.random() < 0.3:
            for _ in range(self._chance.randrange(20)):
                await asyncio.sleep(0)
            call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return None
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def one(self, request: bytes, timeout_s: float | None) -> None:
        assert await self._pair.one(request=request, timeout=timeout_s) == request

    async def many(self, request: bytes, timeout_s: float | None) -> None:
        call = self._pair.many(request=request, timeout=timeout_s)
        assert [answer async for answer in call] == [request] * 5

    async def chat(self, request: bytes, timeout_s: float | None) -> None:
        call = self._pair.chat(timeout=timeout_s)
        for _ in range(3):
            # A call whose time ran out while nobody waited for it cannot be written to; read() says how it ended.
            with contextlib.suppress(asyncio.InvalidStateError):
                await call.write(request)
            assert await call.read() in (request, grpc.aio.EOF)
        if self._chance.random() < 0.5:
            call.cancel()
            return
        await call.done_writing()
        await call.read()


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_left_of_calls_that_end_in_every_way(seed: int) -> None:
    chance = random.Random(seed)
    async with linked(one=one, many=many, chat=chat) as pair:
        callers = [Caller(pair, chance)() for _ in range(CALLS)]
        ends = await asyncio.gather(*callers)
        assert set(ends) == {
            None,
            grpc.StatusCode.OK,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.DATA_LOSS,
        }
        await settled()
        if pair.running:
            await asyncio.wait(tuple(pair.running))
        await settled()
        assert pair.link.calls == 0
        assert pair.served.calls == 0
        assert not pair.link.end.waits
        assert not pair.served.end.waits
        assert await pair.one(request=b"still there") == b"still there"


async def test_nothing_is_left_when_the_connection_breaks_under_all_of_them() -> None:
    chance = random.Random(7)
    async with linked(one=one, many=many, chat=chat) as pair:
        calls = [asyncio.ensure_future(_ends(pair, chance.choice(SIZES))) for _ in range(CALLS)]
        await settled()
        pair.cut()
        assert {await call for call in calls} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        if pair.running:
            await asyncio.wait(tuple(pair.running))
        assert pair.link.calls == 0
        assert pair.served.calls == 0


async def _ends(pair: Linked, size: int) -> grpc.StatusCode:
    try:
        await pair.one(request=b"x" * size)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
