"""A gang under load that loses a member: serve digits with four processes together, kill -9 rank 2, print what happened.

Run from anywhere: ``python examples/gang/main.py``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402

import serve_core  # noqa: E402
from serve_core.launch import LocalCluster, LocalClusterConfig  # noqa: E402
from serve_core.model.status import ReplicaStatus  # noqa: E402
from sharded.app import Answer, Digits  # noqa: E402
from sharded.pictures import Half, halves  # noqa: E402

CALLERS = 8
BATCH = 29
SOME = 200
"""Answers to wait for before the kill, and after it."""

TIMEOUT_S = 60.0
ACCURACY_MIN = 0.93
VICTIM = 2


class Load:
    """Callers that ask about the pictures, batch after batch, until they are told to stop."""

    def __init__(self, handle: Any, half: Half) -> None:
        self._handle = handle
        self._half = half
        self._next = 0
        self._stopped = False
        self._answered = asyncio.Condition()
        self.right: list[int] = []
        self.times: list[tuple[float, float]] = []
        self.errors: Counter[str] = Counter()
        self.epochs: Counter[int] = Counter()

    async def run(self) -> None:
        """Asks."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    def stop(self) -> None:
        """Asks no more."""
        self._stopped = True

    async def more(self, count: int, *, epoch: int = 0) -> None:
        """Waits for so many more answers; with ``epoch``, of a gang of that epoch or a later one."""
        enough = count + self._count(epoch)
        async with asyncio.timeout(TIMEOUT_S), self._answered:
            await self._answered.wait_for(lambda: self._count(epoch) >= enough)

    def _count(self, epoch: int) -> int:
        return sum(count for known, count in self.epochs.items() if known >= epoch)

    async def _caller(self) -> None:
        while not self._stopped:
            begin = self._next % (len(self._half.digits) - BATCH)
            self._next += BATCH
            features, digits = self._half.features[begin : begin + BATCH], self._half.digits[begin : begin + BATCH]
            sent_at = time.monotonic()
            try:
                answer: Answer = await self._handle.classify(features)
            except serve_core.ServeError as error:
                self.errors[f"{error.reason}: {error.message}"] += 1
                continue
            self.times.append((sent_at, time.monotonic()))
            self.right.append(int(np.sum(np.array(answer.digits) == digits)))
            async with self._answered:
                self.epochs[answer.epoch] += 1
                self._answered.notify_all()

    def report(self, killed_at: float) -> float:
        """Prints what became of the requests. Returns the accuracy."""
        took = [ended - sent for sent, ended in self.times]
        waited = [ended - sent for sent, ended in self.times if sent < killed_at < ended]
        accuracy = sum(self.right) / max(1, BATCH * len(self.right))
        print(f"  answers     {len(took)} of {BATCH} pictures each, to {CALLERS} callers")
        print(f"  errors      {sum(self.errors.values())} {dict(self.errors) if self.errors else ''}".rstrip())
        print(f"  accuracy    {accuracy:.1%}")
        print(f"  latency     p50 {np.quantile(took, 0.5) * 1000:.1f} ms, worst {max(took) * 1000:.0f} ms")
        print(f"  under way   {len(waited)} requests when rank {VICTIM} was killed; they waited, and were answered")
        print("  epochs      " + ", ".join(f"{count} by {epoch}" for epoch, count in sorted(self.epochs.items())))
        return accuracy


async def members(cluster: LocalCluster) -> list[ReplicaStatus]:
    """Who is in the gang, by rank."""
    status = await serve_core.status("digits", controller=cluster.controller_address)
    replicas = status.applications[0].deployments[0].replicas
    return sorted(replicas, key=lambda one: one.replica.gang.rank)


def show(gang: list[ReplicaStatus]) -> None:
    """Prints who is in the gang."""
    for one in gang:
        place = one.replica.gang
        print(
            f"  rank {place.rank} of {place.size}, epoch {place.epoch}: process {one.pid} on node {one.replica.node_id}"
        )


async def main() -> int:
    _, half = halves()
    async with LocalCluster(LocalClusterConfig(nodes=HERE / "nodes.yaml")) as cluster:
        app = Digits.options(working_dir=str(HERE)).bind()
        await serve_core.deploy(app, name="digits", controller=cluster.controller_address, timeout_s=120)
        before = await members(cluster)
        print(f"a gang of {len(before)} has trained together, and serves")
        show(before)
        handle = serve_core.get_handle(
            "digits",
            controller=cluster.controller_address,
            target=Digits.target,  # type: ignore[type-abstract]
        )
        load = Load(handle, half)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await load.more(SOME)
            killed_at = time.monotonic()
            os.kill(before[VICTIM].pid, signal.SIGKILL)
            print(f"killed rank {VICTIM} (-9), process {before[VICTIM].pid}")
            await load.more(1, epoch=2)
            print(f"the gang answers again after {time.monotonic() - killed_at:.2f} s")
            await load.more(SOME)
            after = await members(cluster)
            load.stop()
        show(after)
        accuracy = load.report(killed_at)
        await serve_core.close(cluster.controller_address)
    print("drained; nothing is left running")
    replaced = [old.pid != new.pid for old, new in zip(before, after, strict=True)]
    only_the_victim = replaced == [rank == VICTIM for rank in range(len(before))]
    return 0 if only_the_victim and not load.errors and accuracy >= ACCURACY_MIN else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
