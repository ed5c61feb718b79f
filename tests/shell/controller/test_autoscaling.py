"""Whoever asks for a deployment without replicas is heard at once, also while the controller decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serve_core.controller import autoscaling
from serve_core.controller.autoscaling import Autoscaling
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.plan.autoscaler import Rescale
from serve_core.plan.events import RouterQueued

KEY = DeploymentKey("app", "echo")
PATIENCE_S = 60.0


class World:
    """One deployment that scales by itself, and has no replicas."""

    def __init__(self) -> None:
        self.records = SimpleNamespace(deployments={KEY: SimpleNamespace(num_replicas=0)})
        self.observed = None
        self.tell: Callable[[Any], None] = lambda event: None

    def now(self) -> float:
        return 0.0

    def listen(self, on_event: Callable[[Any], None]) -> None:
        self.tell = on_event

    def listen_saved(self, on_saved: Callable[[Any], None]) -> None:
        del on_saved


async def test_who_asks_while_a_decision_is_saved_is_looked_at_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscaling, "PERIOD_S", 2 * PATIENCE_S)
    monkeypatch.setattr(autoscaling, "autoscaled", lambda records: True)
    world, looked_again = World(), asyncio.Event()
    looks = 0

    def decide(*_: Any, **__: Any) -> tuple[Rescale, ...]:
        nonlocal looks
        looks += 1
        if looks == 2:
            looked_again.set()
        return (Rescale(KEY, 1, 0, "because"),) if looks == 1 else ()

    async def change(_: Any) -> None:
        world.tell(RouterQueued(router_id=RouterId("router"), queued={KEY: 1}, now=0.0))

    scaling = Autoscaling(world, SimpleNamespace(change=change))  # type: ignore[arg-type]
    monkeypatch.setattr(scaling._autoscaler, "decide", decide)
    running = asyncio.ensure_future(scaling.run())
    async with asyncio.timeout(PATIENCE_S):
        await looked_again.wait()
    running.cancel()
    await asyncio.wait({running})
