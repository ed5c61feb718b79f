"""A router of its own for each test, and the tasks that it has. Each runs over both ways to a replica."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.forward import Router
from serve_core.model.ids import RouterId
from serve_core.runtime.supervisor import Supervisor


@pytest.fixture(autouse=True)
def _each_way(way: str) -> None:
    """Every test here runs over both ways to a replica."""


@pytest.fixture
async def tasks() -> AsyncIterator[Supervisor]:
    async with Supervisor("test") as tasks:
        yield tasks


@pytest.fixture
async def router(tasks: Supervisor) -> AsyncIterator[Router]:
    router = Router(router_id=RouterId("router-1"), tasks=tasks)
    yield router
    await router.close()
