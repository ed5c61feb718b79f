"""What a request costs a router's core beside one replica and beside 10,000, and a replica's beside as many promises and routers.

The real lane, policy, estimates and table, and the real ledger of slots, without connections. Each row is one thing that happens, each
time in another place. Prints microseconds of CPU time, and the ratio of 1,000 and of 10,000 to 10: 1 is what costs the request, 100 and
1,000 what costs all that there is. Some of what is above 1 are the caches of the machine.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.unit.replica import burdened
from tests.unit.replica.burdened import Burdened
from tests.unit.router import crowd
from tests.unit.router.crowd import Crowd

SIZES = (1, 10, 100, 1_000, 10_000)
BASE = 10
REPEATS = 100
"""Of an operation in one measurement."""


Happen = Callable[[int], None]


def measure_us(happen: Happen, numbers: count[int]) -> float:
    """CPU microseconds of one, each time in another place."""
    places = [next(numbers) for _ in range(REPEATS)]
    began = time.thread_time()
    for place in places:
        happen(place)
    return (time.thread_time() - began) / REPEATS * 1e6


def medians_us(prepare: Callable[[int], Happen], rounds: int) -> list[float]:
    """Of one operation, by size. They are measured in turn, so that the machine's moods concern them all."""
    happens = [prepare(size) for size in SIZES]
    numbers = count()
    took: list[list[float]] = [[] for _ in SIZES]
    for _ in range(rounds):
        for happen, samples in zip(happens, took, strict=True):
            samples.append(measure_us(happen, numbers))
    return [statistics.median(samples) for samples in took]


def echo_rows(heading: str, operations: Mapping[str, Callable[[int], Happen]], rounds: int) -> None:
    titles = [f"{size:,}" for size in SIZES] + [f"{size:,}/{BASE}" for size in SIZES[-2:]]
    click.echo(f"{heading:38}" + "".join(f"{title:>11}" for title in titles))
    for name, prepare in operations.items():
        took = medians_us(prepare, rounds)
        base = took[SIZES.index(BASE)]
        cells = [f"{us:.2f}" for us in took] + [f"{us / base:.2f}" for us in took[-2:]]
        click.echo(f"{name:38}" + "".join(f"{cell:>11}" for cell in cells))


def in_router(operation: crowd.Operation) -> Callable[[int], Happen]:
    return lambda size: operation(Crowd(size, random.Random(size).random))


def in_replica(operation: burdened.Operation) -> Callable[[int], Happen]:
    return lambda size: operation(Burdened(size))


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True, help=f"Measurements of {REPEATS} repeats each.")
def main(rounds: int) -> None:
    echo_rows("router: us, by replicas", {name: in_router(one) for name, one in crowd.OPERATIONS.items()}, rounds)
    click.echo("")
    ledger = {name: in_replica(one) for name, one in burdened.OPERATIONS.items()}
    echo_rows("replica: us, by promises and routers", ledger, rounds)


if __name__ == "__main__":
    main()
