"""What a request costs a router's core beside one replica and beside 10,000, and what a change of its table costs.

The real lane, policy, estimates and table, without connections. Each row is one thing that happens to a deployment of so many
replicas, each time in another place. Prints microseconds of CPU time, and the ratio of 1,000 and of 10,000 replicas to 10: 1 is
what costs the request, 100 and 1,000 what costs the replicas. Some of what is above 1 are the caches of the machine.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.unit.router.crowd import OPERATIONS, Crowd, Operation

SIZES = (1, 10, 100, 1_000, 10_000)
BASE = 10
REPEATS = 100
"""Of an operation in one measurement."""


def measure_us(happen: Callable[[int], None], numbers: count[int]) -> float:
    """CPU microseconds of one, each time in another place."""
    places = [next(numbers) for _ in range(REPEATS)]
    began = time.thread_time()
    for place in places:
        happen(place)
    return (time.thread_time() - began) / REPEATS * 1e6


def medians_us(operation: Operation, rounds: int) -> list[float]:
    """Of one operation, by the number of replicas. They are measured in turn, so that the machine's moods concern them all."""
    happens = [operation(Crowd(size, random.Random(size).random)) for size in SIZES]
    numbers = count()
    took: list[list[float]] = [[] for _ in SIZES]
    for _ in range(rounds):
        for happen, samples in zip(happens, took, strict=True):
            samples.append(measure_us(happen, numbers))
    return [statistics.median(samples) for samples in took]


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True, help=f"Measurements of {REPEATS} repeats each.")
def main(rounds: int) -> None:
    titles = [f"{size:,}" for size in SIZES] + [f"{size:,}/{BASE}" for size in SIZES[-2:]]
    click.echo(f"{'microseconds, by replicas':34}" + "".join(f"{title:>11}" for title in titles))
    for name, operation in OPERATIONS.items():
        took = medians_us(operation, rounds)
        base = took[SIZES.index(BASE)]
        cells = [f"{us:.2f}" for us in took] + [f"{us / base:.2f}" for us in took[-2:]]
        click.echo(f"{name:34}" + "".join(f"{cell:>11}" for cell in cells))


if __name__ == "__main__":
    main()
