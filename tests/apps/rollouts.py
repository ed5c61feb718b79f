"""What is served where updates, drains and stops are tested with real processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import serve_core
from tests.apps.gate import wait_at


class Changing:
    """Answers with its version; note what it runs; may hang before it is there.

    Args:
        version: What it says it is.
        journal: A file to which the number of each request is appended before it runs; empty for none.
        hang: Whether the constructor never returns.
        start_gate: Where the constructor waits; empty for nowhere.
        end_gate: Where its end waits.
    """

    def __init__(
        self, version: int = 1, journal: str = "", hang: bool = False, start_gate: str = "", end_gate: str = ""
    ) -> None:
        time.sleep(3600 if hang else 0)
        wait_at(start_gate)
        self.version = version
        self.end_gate = end_gate
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if journal else None

    async def shutdown(self) -> None:
        await asyncio.to_thread(wait_at, self.end_gate)

    async def work(self, number: int, seconds: float = 0.0) -> dict[str, Any]:
        if self.journal is not None:
            os.write(self.journal, f"{number}\n".encode())
        return {"pid": os.getpid(), "version": self.version}

    async def talk(self, words: AsyncIterator[str]) -> AsyncIterator[list[Any]]:
        """Open for as long as the caller wants: each word comes back, with who said it."""
        async for word in words:
            yield [os.getpid(), word]


changing = serve_core.deployment(Changing, name="Steady", cpus=0.1, max_ongoing_requests=128)
