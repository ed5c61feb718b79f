"""Several router processes on one port, beside one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from bench.load import h2load
from bench.load.h2load import Request
from bench.measure.errors import MeasurementError
from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.servers import APPLICATION, Cluster

WORKERS = (1, 2)
FIRST_S = 0.5
TEXT = b"x" * ECHO_BYTES
JSON = Request(
    path=f"/{APPLICATION}/same",
    body=b'{"value":"%b"}' % TEXT,
    answer_bytes=len(b'"%b"' % TEXT),
    headers=("content-type: application/json",),
    http1=True,
)
ENTRANCES = {"grpc": "gRPC", "http": "HTTP/JSON"}


async def cases(stage: Stage) -> Sequence[Case]:
    """A cluster for each number of workers, by each entrance, at the most callers."""
    concurrency = max(stage.size.concurrencies)
    clusters = {workers: await stage.servers.cluster(workers=workers) for workers in WORKERS}
    found = [
        Case(
            f"{entrance}.{workers}",
            f"router with --workers {workers}, {ENTRANCES[entrance]}, {concurrency} concurrent",
            _told(take),
        )
        for entrance in ENTRANCES
        for workers, cluster in clusters.items()
        for take in _takes(stage, cluster, entrance, concurrency)
    ]
    for case in found:
        # The first caller by HTTP waits until the router has imported what serves it.
        with contextlib.suppress(MeasurementError):
            await case.take(FIRST_S)
    return found


def _takes(stage: Stage, cluster: Cluster, entrance: str, concurrency: int) -> Sequence[Take]:
    if entrance == "grpc":
        return [lambda seconds: stage.unary(cluster.router, concurrency, seconds)]
    if h2load.available():
        return [lambda seconds: stage.posted(cluster.http, JSON, concurrency, seconds)]
    return []


def _told(take: Take) -> Take:
    """Also tells how many cores the routers keep busy: one process that has one full can take no more."""

    async def told(seconds: float) -> Sample:
        sample = await take(seconds)
        cores = sample.cpu_us["router"] * sample.values["req_s"] / 1e6
        return Sample({**sample.values, "routers, cores": cores}, sample.cpu_us)

    return told


def figures(_: Size) -> Sequence[Figure]:
    """How much more two take than one: in a hop, and where the router does the most of the work."""
    known = (
        ("2 router workers over 1, requests/s by gRPC", "grpc"),
        ("2 router workers over 1, requests/s by HTTP/JSON, where the router is the bottleneck", "http"),
    )
    return [
        Figure(title=title, case=f"{entrance}.2", baseline=f"{entrance}.1", measure="req_s", goal=1.3)
        for title, entrance in known
    ]


ROW = Row(
    "workers",
    "Router workers",
    "As in A hop; and by HTTP/JSON over as many connections as callers, where one worker has its thread full while the cores are not. "
    "The load and the replica share the cores with the workers, so that two cannot be twice one: how many of the cores are the "
    "routers' is told.",
    cases,
    figures,
)
