"""Several router processes on one port, beside one."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import Case, Figure
from bench.rows.stage import Row, Size, Stage, Take
from bench.targets.target import Target

WORKERS = (1, 2)


async def cases(stage: Stage) -> Sequence[Case]:
    """A cluster for each number of workers, at the most callers."""
    concurrency = max(stage.size.concurrencies)
    targets = {workers: (await stage.servers.cluster(workers=workers)).router for workers in WORKERS}
    return [
        Case(f"workers.{workers}", f"router with --workers {workers}, {concurrency} concurrent", take(stage, target))
        for workers, target in targets.items()
    ]


def take(stage: Stage, target: Target) -> Take:
    """Echoes by as many callers as there are at most."""
    return lambda seconds: stage.unary(target, max(stage.size.concurrencies), seconds)


def figures(_: Size) -> Sequence[Figure]:
    """How much more two take than one, with the load and the replica beside them on the same cores."""
    return [
        Figure(
            title="2 router workers over 1, requests/s",
            case="workers.2",
            baseline="workers.1",
            measure="req_s",
            goal=1.3,
        )
    ]


ROW = Row(
    "workers",
    "Router workers",
    "As in A hop. The load and the replica share the cores with the workers, so that two cannot be twice one.",
    cases,
    figures,
)
