"""A gang that adds up numbers with torch.distributed, set up by nothing but the environment of its members."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

import torch
import torch.distributed as dist

import serve_core

TIMEOUT = timedelta(seconds=20)


class Summing:
    """One member."""

    def __init__(self) -> None:
        self._gang = serve_core.get_gang_context()
        dist.init_process_group("gloo", timeout=TIMEOUT)
        self._turn = asyncio.Lock()

    def on_gang_changed(self, roster: serve_core.GangRoster) -> None:
        """Another member has taken a place: its constructor makes the process group again, and so do the others."""
        dist.destroy_process_group()
        dist.init_process_group("gloo", timeout=TIMEOUT)

    async def total(self, numbers: list[float]) -> list[float]:
        """What every member's ``numbers``, each times one more than its rank, add up to."""
        async with self._turn:
            peers = [self._gang.peer(rank) for rank in range(self._gang.size)]
            totals = await asyncio.gather(*(peer.call(self.take_part, numbers) for peer in peers))
        assert totals == [totals[0]] * len(totals)
        return totals[0]

    def take_part(self, numbers: list[float]) -> list[float]:
        """One member's part of ``total``."""
        values = torch.tensor(numbers, dtype=torch.float64) * (dist.get_rank() + 1)
        dist.all_reduce(values)
        return [float(value) for value in values]

    async def who(self) -> list[int]:
        """Its rank and the number of members, as torch has them, and its process."""
        return [dist.get_rank(), dist.get_world_size(), os.getpid()]


summing = serve_core.deployment(
    Summing,
    num_replicas=4,
    cpus=0.1,
    gang={"size": 4, "placement": "SPREAD", "route": "LEADER", "on_member_failure": "RESTART_REPLICA"},
)
