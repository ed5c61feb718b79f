"""Command line: ``python -m tests.simulation --seed N | --seeds A:B | --minutes M | --scale N,M``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, islice, takewhile

from tests.simulation.engine import Violation
from tests.simulation.run import Result, simulate
from tests.simulation.scale import table

CHUNK = 16


def main() -> int:
    """Lives through worlds until one breaks a promise. 0 if none did, 1 if one did."""
    options = _options()
    if options.scale:
        return _scale(options)
    seeds = _seeds(options)
    began = time.monotonic()
    done, events, virtual_s = 0, 0, 0.0
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    failed: list[Result] = []
    for result in _results(seeds, jobs=options.jobs):
        done, events, virtual_s = done + 1, events + result.events, virtual_s + result.virtual_s
        outcomes.update(result.outcomes)
        faults.update(result.faults)
        if result.violation:
            failed.append(result)
            print(result.tell() if not options.keep_going else f"SEED={result.seed} {result.violation}", flush=True)
            if not options.keep_going:
                break
        elif options.seed is not None:
            print(f"SEED={result.seed} trace {result.trace}")
    took_s = time.monotonic() - began
    print(
        f"{done} seeds, {len(failed)} failed, {virtual_s / 3600:.1f} virtual hours, {events} events, "
        f"{took_s:.1f} s, {done / took_s:.1f} seeds/s"
    )
    print(_told("answers", outcomes))
    print(_told("faults", faults))
    return 1 if failed else 0


def _told(what: str, count: Counter[str]) -> str:
    return f"{what}: " + " ".join(f"{name}={number}" for name, number in sorted(count.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="one world, again")
    parser.add_argument("--seeds", default="0:200", help="from the first to before the last, as A:B")
    parser.add_argument("--minutes", type=float, help="as many worlds as fit, from the first of --seeds on")
    parser.add_argument("--scale", help="what single changes cost in worlds of so many replicas, such as 1000,10000")
    parser.add_argument("--sizes", default="10,100", help="with --scale: replicas of a deployment")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    return parser.parse_args()


def _scale(options: argparse.Namespace) -> int:
    scaled, sizes = ([int(number) for number in text.split(",")] for text in (options.scale, options.sizes))
    try:
        for line in table(scaled, sizes, seed=options.seed or 0):
            print(line, flush=True)
    except Violation as violation:
        print(violation)
        return 1
    return 0


def _results(seeds: Iterable[int], *, jobs: int) -> Iterator[Result]:
    """What became of each seed, in their order."""
    if jobs <= 1:
        yield from map(simulate, seeds)
        return
    waiting = iter(seeds)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        while chunk := list(islice(waiting, CHUNK * jobs)):
            yield from pool.imap(simulate, chunk, chunksize=CHUNK)


def _seeds(options: argparse.Namespace) -> Iterable[int]:
    if options.seed is not None:
        return [options.seed]
    first, _, last = options.seeds.partition(":")
    if options.minutes is None:
        return range(int(first), int(last))
    return _for_minutes(int(first), options.minutes)


def _for_minutes(first: int, minutes: float) -> Iterator[int]:
    end = time.monotonic() + 60 * minutes
    return takewhile(lambda _: time.monotonic() < end, count(first))


if __name__ == "__main__":
    sys.exit(main())
