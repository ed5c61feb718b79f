"""What ran, and when, as the replicas of ``bench/steady_app.py`` note it before they begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """One run of a request: when it began (monotonic seconds, as all processes of this machine see them), and in which process."""

    at: float
    pid: int


def read_runs(path: Path) -> Mapping[int, list[Run]]:
    """The runs of each request, by its number, in the order in which they began."""
    runs: dict[int, list[Run]] = {}
    for line in path.read_text().splitlines():
        number, pid, at = line.split()
        runs.setdefault(int(number), []).append(Run(float(at), int(pid)))
    return {number: sorted(found) for number, found in runs.items()}


def repeats(runs: Mapping[int, list[Run]]) -> Iterator[tuple[int, Run, Run]]:
    """Each run that was not the first of its request, after the one before it, with the request's number."""
    for number, found in runs.items():
        for before, after in pairwise(found):
            yield number, before, after
