"""One slot, five callers: never two inside, and no gap between one call and the next.

Measures one caller and five callers in turn against a deployment with ``max_ongoing_requests=1``, and prints the
throughput of five as a ratio to that of one. Exits 1 if two were ever inside, or if the ratio is below 0.95.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

import serve_core
from bench.echo_app import single
from serve_core.launch import LocalCluster, LocalClusterConfig

ROOT = Path(__file__).parents[1]
RATIO_MIN = 0.95


async def throughput(
    handle: serve_core.DeploymentHandle[Any], callers: int, seconds: float, work_s: float
) -> tuple[float, int]:
    """Calls a second of ``callers`` concurrent callers, and the most that were inside at once."""
    end = time.perf_counter() + seconds
    done = most = 0

    async def caller() -> None:
        nonlocal done, most
        while time.perf_counter() < end:
            most = max(most, await handle.work(work_s))
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - start), most


async def compare(seconds: float, rounds: int, work_s: float, callers: int) -> bool:
    async with LocalCluster(LocalClusterConfig(cpus=2.0)) as cluster:
        deployed = single.options(working_dir=str(ROOT)).bind()
        await serve_core.deploy(deployed, name="single", controller=cluster.controller_address)
        handle = serve_core.get_handle("single", controller=cluster.controller_address)
        ratios, most = [], 0
        for _ in range(rounds):
            alone, most_alone = await throughput(handle, 1, seconds, work_s)
            together, most_together = await throughput(handle, callers, seconds, work_s)
            most = max(most, most_alone, most_together)
            ratios.append(together / alone)
            print(f"1 caller {alone:7.1f} calls/s   {callers} callers {together:7.1f} calls/s   ratio {ratios[-1]:.3f}")
        await serve_core.close(cluster.controller_address)
    ratio = statistics.median(ratios)
    print(f"median ratio {ratio:.3f} (wanted: {RATIO_MIN} or more); most inside at once: {most} (wanted: 1)")
    return ratio >= RATIO_MIN and most == 1


@click.command(help=__doc__)
@click.option("--seconds", default=2.0, show_default=True, help="Time of one measurement.")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each, in turn.")
@click.option("--work-ms", default=5.0, show_default=True, help="How long a call works.")
@click.option("--callers", default=5, show_default=True, help="Concurrent callers.")
def main(seconds: float, rounds: int, work_ms: float, callers: int) -> None:
    sys.exit(0 if asyncio.run(compare(seconds, rounds, work_ms / 1000, callers)) else 1)


if __name__ == "__main__":
    main()
