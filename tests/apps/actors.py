"""What is served where deployment actors are tested with real processes."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import serve_core
from tests.apps.gate import wait_at


class Tally:
    """Counts, and keeps what it has counted from life to life.

    Args:
        version: What it says it is.
        hang: Whether it never becomes ready.
        start_gate: Where the constructor waits; empty for nowhere.
    """

    def __init__(self, version: int = 1, hang: bool = False, start_gate: str = "") -> None:
        wait_at(start_gate)
        self._version = version
        self._hang = hang
        self._counts: dict[str, int] = {}
        self._sick = False

    def check_health(self) -> None:
        if self._sick:
            raise RuntimeError("as asked")

    async def sicken(self) -> None:
        self._sick = True

    async def is_ready(self) -> bool:
        return not self._hang

    def restore_state(self, state: bytes) -> None:
        self._counts = json.loads(state)

    async def save_state(self) -> bytes:
        return json.dumps(self._counts).encode()

    async def add(self, key: str = "all") -> int:
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]

    async def get(self, key: str = "all") -> int:
        return self._counts.get(key, 0)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def about(self) -> dict[str, Any]:
        context = serve_core.get_deployment_actor_context()
        return {
            "pid": os.getpid(),
            "version": self._version,
            "incarnation": context.incarnation,
            "restored": context.restored,
        }


class Counting:
    """Asks the tally, and remembers what it was told of it."""

    def __init__(self, version: int = 1) -> None:
        self._version = version
        self._tally = serve_core.get_deployment_actor("tally", Tally)
        self._at_start = self._tally.get.call_sync()
        self._restarts: list[int] = []

    def on_actor_restarted(self, name: str, incarnation: int) -> None:
        self._restarts.append(incarnation)

    async def add(self, key: str = "all") -> int:
        return int(await self._tally.options(idempotent=True).add(key))

    async def get(self, key: str = "all", timeout_s: float = 30.0) -> int:
        return int(await self._tally.options(timeout_s=timeout_s, idempotent=True).get(key))

    async def actor(self) -> dict[str, Any]:
        about: dict[str, Any] = await self._tally.options(idempotent=True).about()
        return about

    async def sicken(self) -> None:
        await self._tally.sicken()

    async def me(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": self._version,
            "restarts": self._restarts,
            "incarnation": self._tally.incarnation,
        }


counting = serve_core.deployment(Counting, cpus=0.1, max_ongoing_requests=32)
