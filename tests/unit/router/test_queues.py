"""What a router tells of the requests that wait in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import pytest

from router import queues
from router.queues import Queues
from serve_core.model.ids import DeploymentKey

MAIN, SIDE = DeploymentKey("app", "main"), DeploymentKey("app", "side")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "PERIOD_S", 0.001)


class Waiting:
    """Deployments in which requests wait."""

    def __init__(self) -> None:
        self.main = 0
        self.side = 0
        self.looks = 0
        self.queues = Queues(self._depths)
        self._reports = self.queues.reports()

    def _depths(self) -> list[tuple[str, str, int]]:
        self.looks += 1
        return [(*MAIN, self.main), (*SIDE, self.side)]

    async def next(self) -> Mapping[DeploymentKey, int]:
        """The next report."""
        async with asyncio.timeout(30):
            return await anext(self._reports)

    @property
    def reports(self) -> AsyncGenerator[Mapping[DeploymentKey, int]]:
        """All of them."""
        return self._reports


async def test_what_waits_is_told_at_once_and_when_it_changes() -> None:
    waiting = Waiting()
    waiting.main = 2
    waiting.queues.began()
    assert await waiting.next() == {MAIN: 2}
    waiting.main, waiting.side = 1, 5
    assert await waiting.next() == {MAIN: 1, SIDE: 5}
    waiting.main = waiting.side = 0
    assert await waiting.next() == {}
    await waiting.reports.aclose()


async def test_nobody_looks_while_nothing_waits() -> None:
    waiting = Waiting()
    waiting.main = 1
    waiting.queues.began()
    await waiting.next()
    waiting.main = 0
    assert await waiting.next() == {}
    looks = waiting.looks
    again = asyncio.ensure_future(waiting.next())
    for _ in range(100):
        await asyncio.sleep(0)
    assert waiting.looks == looks
    waiting.side = 1
    waiting.queues.began()
    assert await again == {SIDE: 1}
    await waiting.reports.aclose()


async def test_what_began_to_wait_and_does_not_any_more_is_not_told() -> None:
    waiting = Waiting()
    waiting.queues.began()
    again = asyncio.ensure_future(waiting.next())
    for _ in range(10):
        await asyncio.sleep(0)
    assert waiting.looks == 1
    assert not again.done()
    waiting.main = 3
    waiting.queues.began()
    assert await again == {MAIN: 3}
    await waiting.reports.aclose()
