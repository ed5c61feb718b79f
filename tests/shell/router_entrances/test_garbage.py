"""What a call leaves behind: nothing that only the garbage collector finds, which looks rarely in a router, and may find a
large message in it then."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from tests.shell.router_entrances.harness import Entrance, entrance, fake_replica

LIMIT_BYTES = 4 * 1024 * 1024
LARGE = b"y" * 1_000_000
OURS = ("router.", "serve_core.")


@pytest.fixture
async def served(way: str) -> AsyncIterator[Entrance]:
    async with fake_replica("r1", LIMIT_BYTES) as replica, entrance(replica, limit=LIMIT_BYTES) as one:
        yield one


async def items() -> AsyncIterator[bytes]:
    yield b"a"
    yield LARGE


async def call(served: Entrance, kind: str) -> None:
    if kind == "small":
        assert await served.unary(b"x")
    elif kind == "large":
        assert await served.unary(LARGE)
    elif kind == "count":
        assert [answer async for answer in served.count(b"3,1000")]
    elif kind == "join":
        assert await served.join(items())
    else:
        assert [answer async for answer in served.chat(items())]


async def settled() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["small", "large", "count", "join", "chat"])
async def test_a_call_is_gone_when_it_is_over(served: Entrance, kind: str) -> None:
    for _ in range(3):
        await call(served, kind)
    await settled()
    gc.collect()
    gc.disable()
    try:
        await call(served, kind)
        await settled()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not [name for name in left if name.startswith(OURS)]
