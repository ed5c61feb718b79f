"""What is served where deployment actors are measured: each request is written down in a notebook that replicas share."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import serve_core


@dataclass
class Life:
    """Which life of the notebook it is, and the requests that it knew when it began."""

    incarnation: int
    restored: list[int]


class Notebook:
    """The actor.

    Args:
        hang: Whether it never becomes ready.
    """

    def __init__(self, *, hang: bool = False) -> None:
        self._hang = hang
        self._numbers: list[int] = []
        self._restored: list[int] = []

    async def is_ready(self) -> bool:
        """Whether it may be asked."""
        return not self._hang

    def restore_state(self, state: bytes) -> None:
        """Begins with what an earlier life knew."""
        self._numbers = json.loads(state)
        self._restored = list(self._numbers)

    async def save_state(self) -> bytes:
        """What it knows."""
        return json.dumps(self._numbers).encode()

    async def note(self, number: int, seconds: float) -> None:
        """Works for a while, and knows request ``number`` from then on."""
        await asyncio.sleep(seconds)
        self._numbers.append(number)

    async def life(self) -> Life:
        """Who it is."""
        return Life(serve_core.get_deployment_actor_context().incarnation, self._restored)


class Noting:
    """One replica.

    Args:
        version: Anything; another one makes another revision.
    """

    def __init__(self, version: int = 1) -> None:
        self._version = version
        self._notebook = serve_core.get_deployment_actor("notebook", Notebook).options(idempotent=True)

    async def work(self, number: int, seconds: float = 0.0) -> dict[str, Any]:
        """Runs request ``number``: it is answered once that is written down."""
        await self._notebook.note(number, seconds)
        return {"pid": os.getpid(), "version": self._version}

    async def notebook(self) -> Life:
        """Which life of the notebook serves; waits for it if none does."""
        life: Life = await self._notebook.life()
        return life


noting = serve_core.deployment(Noting, name="Steady", cpus=0.1, max_ongoing_requests=64)
