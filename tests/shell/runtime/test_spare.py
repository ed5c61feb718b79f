"""A channel that is there while it is needed, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from textwrap import dedent
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.runtime.spare import SpareChannel
from tests.shell.runtime.conftest import Running

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


class Spare:
    """A spare channel to a server, and how often it was opened."""

    def __init__(self, address: str) -> None:
        self.opened = 0
        self._address = address
        self.channel = SpareChannel(self._open)
        self.check: Any = self.channel.unary_unary(CHECK)

    def _open(self) -> grpc.aio.Channel:
        self.opened += 1
        return open_channel(self._address)


@pytest.fixture
async def spare(running: Running) -> AsyncIterator[Spare]:
    made = Spare(running.address)
    yield made
    await made.channel.close()


async def test_it_is_opened_when_it_is_used_and_again_after_it_was_put_away(spare: Spare) -> None:
    assert spare.channel.get_state() is grpc.ChannelConnectivity.IDLE
    for times in (1, 2):
        assert await spare.check(b"") is not None
        assert spare.opened == times
        await spare.channel.put_away()
        assert not spare.channel.is_open


async def test_a_method_is_asked_of_it_once_however_often_it_is_called(spare: Spare) -> None:
    for _ in range(3):
        assert await spare.channel.unary_unary(CHECK)(b"") is not None
    assert len(spare.channel._methods) == 1


async def test_a_call_that_is_under_way_keeps_it(spare: Spare) -> None:
    call = spare.channel.unary_stream(WATCH)(b"")
    assert await call.read() is not grpc.aio.EOF

    await spare.channel.put_away()

    assert spare.channel.is_open
    assert not call.done()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    await spare.channel.put_away()
    assert not spare.channel.is_open


async def test_who_waits_for_it_to_be_ready_keeps_it(spare: Spare) -> None:
    waiting = asyncio.ensure_future(wait_ready(spare.channel, 30))
    await asyncio.sleep(0)
    await spare.channel.put_away()
    assert await waiting
    await spare.channel.put_away()
    assert spare.opened == 1


async def test_once_it_is_closed_it_stays_so(spare: Spare) -> None:
    assert await spare.check(b"") is not None
    await spare.channel.close()
    assert spare.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.SHUTDOWN
    assert not await wait_ready(spare.channel, 1)
    with pytest.raises(grpc.aio.UsageError, match="closed"):
        spare.check(b"")
    assert spare.opened == 1


async def test_with_the_last_one_the_thread_of_grpc_ends() -> None:
    program = dedent("""
        import asyncio, threading
        import grpc.aio
        from serve_core.runtime.channel import open_channel
        from serve_core.runtime.spare import SpareChannel

        def polling():
            return [thread for thread in threading.enumerate() if "poll" in thread.name]

        async def main():
            channel = SpareChannel(lambda: open_channel("127.0.0.1:1"))
            for _ in range(3):
                call = channel.unary_unary("/a/b")(b"")
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
                assert polling()
                del call
                await channel.put_away()
                async with asyncio.timeout(20):
                    while polling():
                        await asyncio.sleep(0.001)

        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
