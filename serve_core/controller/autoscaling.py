"""Gives deployments that scale by themselves the number of replicas that is decided upon."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from serve_core.controller.loop import ReconcileLoop
from serve_core.controller.world import World
from serve_core.plan.autoscaler import PERIOD_S, Autoscaler, Rescale, autoscaled
from serve_core.plan.deploy import rescale
from serve_core.plan.events import Event, RouterQueued
from serve_core.plan.touched import Touched
from serve_core.runtime import log

_log = log.get_logger(__name__)


class Autoscaling:
    """Looks once in a while, and at once where requests wait for a deployment that has no replicas.

    Args:
        world: What is known.
        loop: Changes what is wanted.
    """

    def __init__(self, world: World, loop: ReconcileLoop) -> None:
        self._world = world
        self._loop = loop
        self._autoscaler = Autoscaler()
        self._asked = asyncio.Event()
        self._wanted = asyncio.Event()
        world.listen(self._on_event)
        world.listen_saved(self._on_saved)

    async def run(self) -> None:
        """Decides until cancelled; only waits while no deployment scales by itself."""
        while True:
            self._wanted.clear()
            if not autoscaled(self._world.records.deployments.values()):
                await self._wanted.wait()
            self._asked.clear()  # Before: who asks while this decides is not looked at by it.
            await self.decide()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._asked.wait()

    async def decide(self) -> None:
        """Looks now, and has done what follows."""
        for decided in self._decided():
            await self._loop.change(partial(rescale, decided=decided))
            _log.info("rescaled", deployment=str(decided.key), num_replicas=decided.num_replicas, why=decided.why)

    def _decided(self) -> tuple[Rescale, ...]:
        world = self._world
        try:
            return self._autoscaler.decide(world.records, world.observed, now=world.now())
        except Exception as error:  # noqa: BLE001 - deciding is pure: its bug has changed nothing, and all else goes on
            _log.error("autoscaling failed, a bug of serve-core; the numbers stay as they are", exc_info=error)
            return ()

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, RouterQueued):
            return
        deployments = self._world.records.deployments
        if any((record := deployments.get(key)) is not None and not record.num_replicas for key in event.queued):
            self._asked.set()

    def _on_saved(self, touched: Touched) -> None:
        if touched:
            self._wanted.set()
