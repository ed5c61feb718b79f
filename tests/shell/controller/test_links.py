"""Routers of the controller's own host follow it in a link, and have no channel open meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from router import watcher
from router.forward import Router
from serve_core.link import choice, unix
from serve_core.link.call import LinkCall
from serve_core.model.ids import RouterId
from serve_core.runtime.spare import SpareChannel
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2
from tests.shell.controller.rig import PATIENCE_S, Rig, app, controller


class Follower:
    """A router that follows a controller, and the channel that it has for that."""

    def __init__(self, address: str, tasks: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.router = Router(router_id=RouterId("router-1"), tasks=tasks)
        self.watcher = watcher.Watcher(self.router, address, unit_random=lambda: 0.0)
        self.channel: SpareChannel | None = None
        monkeypatch.setattr(watcher, "SpareChannel", self._keep)
        tasks.spawn(self.watcher.run(), name="watch")

    def _keep(self, new: Callable[[], grpc.aio.Channel]) -> SpareChannel:
        self.channel = SpareChannel(new)
        return self.channel

    @property
    def has_channel(self) -> bool:
        assert self.channel is not None
        return self.channel.is_open

    @property
    def link(self) -> LinkCall | None:
        """The subscription, if it is in a link."""
        call: object = self.watcher._call
        return call if isinstance(call, LinkCall) else None

    async def until_there_are_routes(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.router.routes()) != count:
                await self.router.routes_changed(None)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    choice.choose(os.environ)


@asynccontextmanager
async def following(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Follower]:
    async with Supervisor("follower") as tasks:
        follower = Follower(rig.address, tasks, monkeypatch)
        await follower.watcher.synced(PATIENCE_S)
        yield follower
        await follower.router.close()


async def test_a_router_follows_in_a_link_and_needs_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    async with controller() as rig, following(rig, monkeypatch) as follower:
        await rig.deploy(app())
        await follower.until_there_are_routes(1)
        assert follower.link is not None
        assert not follower.has_channel


async def test_a_link_that_is_lost_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with controller() as rig, following(rig, monkeypatch) as follower:
        lost = follower.link
        assert lost is not None
        lost._owner.end.over()
        await rig.deploy(app())
        await follower.until_there_are_routes(1)
        assert follower.link is not lost
        assert follower.link is not None


async def test_a_router_that_leaves_says_so_in_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    async with controller() as rig, following(rig, monkeypatch) as follower:
        await follower.watcher.leave(PATIENCE_S)
        assert follower.watcher._left.is_set()
        async with asyncio.timeout(PATIENCE_S):
            while (await rig.status()).routers:
                continue


@pytest.mark.parametrize("kind", ["off", "grpc"])
async def test_without_sockets_it_follows_by_its_channel(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    choice.choose({choice.VARIABLE: kind})
    async with controller() as rig, following(rig, monkeypatch) as follower:
        offer = await rig.stub.GetLink(controller_pb2.GetLinkRequest())
        assert not offer.socket
        await rig.deploy(app())
        await follower.until_there_are_routes(1)
        assert follower.link is None
        assert follower.has_channel


class _Over:
    """A subscription that is over before anything is written to it."""

    def __init__(self) -> None:
        self.write = self._ended
        self.cancel = bool

    async def _ended(self, _: object) -> None:
        raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> None:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


async def test_a_subscription_that_is_over_at_once_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with controller() as rig, following(rig, monkeypatch) as follower:
        stub: Any = SimpleNamespace(WatchEndpoints=lambda **_: _Over())
        assert await follower.watcher._subscribe(stub) is False


async def test_a_router_that_stands_still_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "KEEPALIVE_TIME_S", 0.01)
    monkeypatch.setattr(unix, "KEEPALIVE_TIMEOUT_S", 0.01)
    async with controller() as rig, following(rig, monkeypatch) as follower:
        call = follower.link
        assert call is not None
        monkeypatch.setattr(call._owner.end, "say", lambda *_, **__: 0)  # It hears, and says nothing any more.
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
