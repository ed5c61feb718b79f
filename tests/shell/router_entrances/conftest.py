"""Routers in front of one replica, and of two."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.shell.router_entrances.harness import Entrance, entrance, fake_replica


@pytest.fixture
async def served() -> AsyncIterator[Entrance]:
    async with fake_replica("r1") as replica, entrance(replica) as served:
        yield served


@pytest.fixture
async def pair() -> AsyncIterator[Entrance]:
    async with fake_replica("r1") as one, fake_replica("r2") as two, entrance(one, two) as served:
        yield served
