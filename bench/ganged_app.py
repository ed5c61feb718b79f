"""What is served where gangs are measured and tested: it says who it is in its gang, and what it was told of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import serve_core
from serve_core.model.gang import LAUNCHER_VARIABLES

_AT_IMPORT = {name: os.environ.get(name) for name in LAUNCHER_VARIABLES}


class Ganged:
    """One member. Its constructor returns once those of all members have got as far.

    Args:
        version: Anything; another one makes another revision.
        journal: A file to which the number of each request is appended before it runs; empty for none.
        broken: A file; while there is one, rank 1 cannot be constructed. Empty for none.
    """

    def __init__(self, version: int = 1, journal: str = "", broken: str = "") -> None:
        gang = serve_core.get_gang_context()
        if broken and gang.rank == 1 and Path(broken).exists():
            raise OSError("rank 1 cannot start")
        self._version = version
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if journal else None
        self._told: list[int] = []
        self._ill = False
        if gang.epoch == 1:
            gang.barrier_sync("constructed")

    def on_gang_changed(self, roster: serve_core.GangRoster) -> None:
        """A member was replaced."""
        self._told.append(roster.epoch)

    def check_health(self) -> None:
        """Whether it is well."""
        if self._ill:
            raise RuntimeError("this member was told to be ill")

    async def fall_ill(self) -> dict[str, Any]:
        """Says that it is not well from now on."""
        self._ill = True
        return {"pid": os.getpid()}

    async def work(self, number: int, seconds: float = 0.0) -> dict[str, Any]:
        """Runs request ``number``."""
        if self._journal is not None:
            os.write(self._journal, f"{number}\n".encode())
        if seconds:
            await asyncio.sleep(seconds)
        return {"pid": os.getpid(), "version": self._version}

    async def who(self) -> dict[str, Any]:
        """Who it is and who the others are; what launchers would have set before the import; which epochs it was told."""
        gang = serve_core.get_gang_context()
        return {
            "pid": os.getpid(),
            "gang": gang.gang_id,
            "rank": gang.rank,
            "size": gang.size,
            "epoch": gang.epoch,
            "leader": gang.leader.rank,
            "members": [[member.rank, member.replica_id, member.address] for member in gang.members],
            "rendezvous": [gang.rendezvous_host, gang.rendezvous_port],
            "environment": _AT_IMPORT,
            "told": self._told,
        }

    async def talk(self, words: AsyncIterator[str]) -> AsyncIterator[list[Any]]:
        """Open for as long as the caller wants: each word comes back, with who said it, once the last rank has heard it."""
        gang = serve_core.get_gang_context()
        async for word in words:
            yield [os.getpid(), await gang.peer(gang.size - 1).call(self.repeat, word)]

    def repeat(self, word: str) -> str:
        """The same word."""
        return word


ganged = serve_core.deployment(
    Ganged,
    name="Steady",
    cpus=0.1,
    max_ongoing_requests=32,
    heartbeat_period_s=0.25,
    # None is to leave rotation because the machine is busy: here members are killed, and not silent.
    suspect_after_missed=40,
    lost_after_missed=100,
    graceful_shutdown_timeout_s=10.0,
)
app = ganged.bind()
