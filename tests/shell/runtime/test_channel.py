"""Connecting, and knowing when it did not work."""

from __future__ import annotations

import asyncio
import contextlib

import grpc

from serve_core.runtime.address import held_port
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.runtime.server import Server


async def test_a_channel_to_a_server_becomes_ready() -> None:
    server = Server("127.0.0.1", 0)
    async with open_channel(await server.start()) as channel:
        assert not await wait_ready(channel, 0)
        assert await wait_ready(channel, 30)
        assert await wait_ready(channel, 0)
    await server.stop(0)


async def test_where_nobody_listens_it_does_not_become_ready() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        assert not await wait_ready(channel, 30, fail_fast=True)
        assert not await wait_ready(channel, 30, fail_fast=True)
        assert not await wait_ready(channel, 0.05)


async def test_closing_ends_the_wait() -> None:
    channel = open_channel("127.0.0.1:1")
    waiting = asyncio.ensure_future(wait_ready(channel, 30))
    await asyncio.sleep(0)

    await channel.close()

    assert not await waiting
    assert not await wait_ready(channel, 1)


async def test_it_becomes_ready_when_the_server_comes_back() -> None:
    with held_port("127.0.0.1", 0) as held:
        port = int(held.getsockname()[1])
        first = Server("127.0.0.1", port)
        async with open_channel(await first.start()) as channel:
            assert await wait_ready(channel, 30)
            await first.stop(0)
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

            second = Server("127.0.0.1", port)
            await second.start()

            assert await wait_ready(channel, 30)
        await second.stop(0)


async def test_a_server_that_takes_a_while_to_greet_is_there() -> None:
    server = Server("127.0.0.1", 0)
    port = int((await server.start()).rpartition(":")[2])
    ended = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        # Until then it would have been given up by a caller that leaves it a second.
        given_up = asyncio.ensure_future(_copied(reader, back))
        await asyncio.wait({given_up}, timeout=1.5)
        await _copied(there, writer)
        await given_up
        ended.set()

    slow = await asyncio.start_server(slowly, "127.0.0.1", 0)
    async with open_channel(f"127.0.0.1:{slow.sockets[0].getsockname()[1]}") as channel:
        assert await wait_ready(channel, 30, fail_fast=True)
    async with asyncio.timeout(60):
        await ended.wait()
    slow.close()
    await server.stop(0)


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
    finally:
        writer.close()
