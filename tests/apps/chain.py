"""A deployment that calls another one, for tests in which both change."""

from __future__ import annotations

import os
from typing import Any

import serve_core
from serve_core.handle import DeploymentHandle
from tests.apps.rollouts import Changing


class Sound(Changing):
    """What is called. One that is not sound cannot be constructed."""

    def __init__(self, version: int, journal: str, sound: bool) -> None:
        if not sound:
            raise RuntimeError("this one cannot start")
        super().__init__(version, journal)


class Passing:
    """Passes each request on, and answers with the older one of both versions."""

    def __init__(self, called: DeploymentHandle[Sound], version: int) -> None:
        self.called = called
        self.version = version

    async def work(self, number: int, seconds: float = 0.0) -> dict[str, Any]:
        answer = await self.called.work(number, seconds)
        return {"pid": os.getpid(), "version": min(self.version, answer["version"])}


called = serve_core.deployment(Sound, name="Called", cpus=0.1, max_ongoing_requests=128)
passing = serve_core.deployment(Passing, name="Steady", cpus=0.1, max_ongoing_requests=128)
