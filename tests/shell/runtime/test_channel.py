"""Connecting, and knowing when it did not work."""

from __future__ import annotations

import asyncio

import grpc

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
    first = Server("127.0.0.1", 0)
    address = await first.start()
    async with open_channel(address) as channel:
        assert await wait_ready(channel, 30)
        await first.stop(0)
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

        second = Server("127.0.0.1", int(address.rpartition(":")[2]))
        await second.start()

        assert await wait_ready(channel, 30)
    await second.stop(0)
