"""What a change costs the controller, beside 1,000 and beside 10,000 replicas: from the event to the acknowledged table.

The real fold, planner, records, table and loop, on a store in memory; nothing is started. The fleets are deployments of 10
replicas each, and one deployment of all. Prints medians, and the ratio of ten times the replicas to one time: 1 is what costs
the change, 10 what costs the replicas.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.unit.controller.fleet import Fleet

REPLICAS = 10
SMALL, LARGE = 1_000, 10_000
HEARTBEAT, DEATH, DEPLOY = "heartbeat", "replica dies", "deploy of 10"
CHANGES = (HEARTBEAT, DEATH, DEPLOY)


class Subject:
    """A fleet of one shape, and the milliseconds that each change took in it, by its name."""

    def __init__(self, *, deployments: int, replicas: int) -> None:
        self._deployments = deployments
        self._replicas = replicas
        self._fleet = Fleet(deployments=deployments, replicas=replicas)
        self.start_ms = 0.0
        self._took_ms: dict[str, list[float]] = {change: [] for change in CHANGES}

    async def start(self) -> None:
        """Lets a controller find them, plan for each, and publish all."""
        self.start_ms = await seconds(self._fleet.start()) * 1000

    async def change(self, number: int) -> None:
        """Makes each change once, each time in another place."""
        fleet = self._fleet
        victim = fleet.replica(number * 7 % self._deployments, number * 3 % self._replicas)
        began = time.perf_counter()
        fleet.beat(victim)
        self._took_ms[HEARTBEAT].append((time.perf_counter() - began) * 1000)
        self._took_ms[DEATH].append(await seconds(fleet.kill(victim)) * 1000)
        self._took_ms[DEPLOY].append(await seconds(fleet.deploy(f"new{number}", replicas=REPLICAS)) * 1000)

    def median_ms(self, change: str) -> float:
        """What a change took."""
        return statistics.median(self._took_ms[change])


async def seconds(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def run(rounds: int) -> None:
    subjects = (
        Subject(deployments=SMALL // REPLICAS, replicas=REPLICAS),
        Subject(deployments=LARGE // REPLICAS, replicas=REPLICAS),
        Subject(deployments=1, replicas=SMALL),
        Subject(deployments=1, replicas=LARGE),
    )
    for subject in subjects:
        await subject.start()
    # In turn, so that whatever else the machine does concerns them all.
    for number in range(rounds):
        for subject in subjects:
            await subject.change(number)
    titles = (f"{SMALL:,} replicas", f"{LARGE:,} replicas", "ratio", f"1 of {SMALL:,}", f"1 of {LARGE:,}", "ratio")
    click.echo(f"{'':14}" + "".join(f"{title:>18}" for title in titles))
    for change in CHANGES:
        echo_row(change, *(subject.median_ms(change) for subject in subjects))
    echo_row("first plans", *(subject.start_ms for subject in subjects))


def echo_row(title: str, *took_ms: float) -> None:
    cells: list[str] = []
    for small_ms, large_ms in zip(took_ms[::2], took_ms[1::2], strict=True):
        cells += (f"{small_ms:.3f} ms", f"{large_ms:.3f} ms", f"{large_ms / small_ms:.2f}")
    click.echo(f"{title:14}" + "".join(f"{cell:>18}" for cell in cells))


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Changes of each kind.")
def main(rounds: int) -> None:
    logging.disable(logging.WARNING)
    asyncio.run(run(rounds))


if __name__ == "__main__":
    main()
