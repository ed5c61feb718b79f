"""How many requests wait in a router, for the controller: it lets deployments scale by that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

from serve_core.model.ids import DeploymentKey

PERIOD_S = 1.0
"""Between two reports while requests wait; the first is made at once, as it may be what lets a first replica start."""


class Queues:
    """What waits, told as long as something does.

    Args:
        depths: Application, deployment, and how many requests wait there.
    """

    def __init__(self, depths: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        self._depths = depths
        self._began = asyncio.Event()

    def began(self) -> None:
        """A request begins to wait."""
        self._began.set()

    async def reports(self) -> AsyncGenerator[Mapping[DeploymentKey, int]]:
        """How many requests wait, by deployment, whenever that is another number, until cancelled. None wait at first."""
        told: Mapping[DeploymentKey, int] = {}
        while True:
            await self._began.wait()
            queued = {DeploymentKey(app, name): depth for app, name, depth in self._depths() if depth}
            if queued != told:
                told = queued
                yield queued
            if queued:
                await asyncio.sleep(PERIOD_S)
            else:
                self._began.clear()
