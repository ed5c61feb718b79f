"""Gangs that add up numbers with torch.distributed."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import timedelta

import torch
import torch.distributed as dist

import serve_core

TIMEOUT = timedelta(seconds=10)
"""Within which a collective ends that a member was lost from. Those that are connected to the lost one hear of it at once."""


class Summing:
    """One member. Nothing but its environment tells torch who the others are."""

    def __init__(self) -> None:
        self._gang = serve_core.get_gang_context()
        self._turn = asyncio.Lock()
        self._collective = threading.Lock()
        self._meet()

    def _meet(self) -> None:
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
        with self._collective:
            values = torch.tensor(numbers, dtype=torch.float64) * (dist.get_rank() + 1)
            dist.all_reduce(values)
        return [float(value) for value in values]

    async def total_without(self, absent: int) -> list[str]:
        """What the others, who take part in a sum that one member does not come to, are told once that one is lost."""
        peers = [self._gang.peer(rank) for rank in range(self._gang.size) if rank != absent]
        told = await asyncio.gather(*(peer.call(self.take_part, [1.0]) for peer in peers), return_exceptions=True)
        return [str(one) for one in told]

    async def is_adding(self) -> bool:
        """Whether it is in a collective."""
        return self._collective.locked()

    async def who(self) -> list[int]:
        """Its rank and the number of members, as torch has them, and its process."""
        return [dist.get_rank(), dist.get_world_size(), os.getpid()]


class Lasting(Summing):
    """One member, which meets the others again when one of them was replaced."""

    def __init__(self) -> None:
        self._store: dist.TCPStore | None = None
        super().__init__()

    def on_gang_changed(self, roster: serve_core.GangRoster) -> None:
        """Another member has taken a place: its constructor makes the process group anew, and so do the others."""
        with self._collective:  # which ends by itself, at the latest with its timeout
            dist.destroy_process_group()
        self._meet()

    def _meet(self) -> None:
        gang = self._gang
        if self._store is None or not gang.is_leader:
            self._store = dist.TCPStore(
                gang.rendezvous_host,
                gang.rendezvous_port,
                is_master=gang.is_leader,
                wait_for_workers=False,
                timeout=TIMEOUT,
            )
        # The leader's store lives as long as its process: what former groups left there must not be found again.
        store = dist.PrefixStore(f"epoch {gang.epoch}", self._store)
        dist.init_process_group("gloo", store=store, rank=gang.rank, world_size=gang.size, timeout=TIMEOUT)


_gang: serve_core.GangOptions = {"size": 4, "placement": "SPREAD", "route": "LEADER"}
summing = serve_core.deployment(Summing, num_replicas=4, cpus=0.1, gang=_gang)
lasting = serve_core.deployment(
    Lasting, num_replicas=4, cpus=0.1, gang={**_gang, "on_member_failure": "RESTART_REPLICA"}
)
