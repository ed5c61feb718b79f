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
TOKENS, TOKEN_CHARACTERS = 200, 20
EVENTS = Request(
    path=f"/{APPLICATION}/tokens",
    body=b'{"count":%d,"size":%d}' % (TOKENS, TOKEN_CHARACTERS),
    answer_bytes=TOKENS * len(b'data: ""' + TOKEN_CHARACTERS * b"x"),
    headers=("content-type: application/json", "accept: text/event-stream"),
    http1=True,
)
ENTRANCES = {"grpc": "gRPC", "http": "HTTP/JSON", "events": "server-sent events"}


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
    request = {"http": JSON, "events": EVENTS}[entrance]
    if h2load.available():
        return [lambda seconds: stage.posted(cluster.http, request, concurrency, seconds)]
    return []


def _told(take: Take) -> Take:
    """Also tells how many cores the routers keep busy, as one process that has one full can take no more; and how many all do
    together, as nobody can take more than there are.
    """

    async def told(seconds: float) -> Sample:
        sample = await take(seconds)
        per_s = sample.values["req_s"] / 1e6
        busy = {
            "routers, cores": sample.cpu_us["router"] * per_s,
            "all, cores": (sum(sample.cpu_us.values()) + sample.values["load_us"]) * per_s,
        }
        return Sample({**sample.values, **busy}, sample.cpu_us)

    return told


def figures(_: Size) -> Sequence[Figure]:
    """How much more two take than one: in a hop, and where the router does the most of the work."""
    known = (
        ("2 router workers over 1, requests/s by gRPC", "grpc"),
        ("2 router workers over 1, requests/s by HTTP/JSON, where the router is the bottleneck", "http"),
        (
            f"2 router workers over 1, streams of {TOKENS} server-sent events a second, where it is so even more",
            "events",
        ),
    )
    return [
        Figure(title=title, case=f"{entrance}.2", baseline=f"{entrance}.1", measure="req_s", goal=1.3)
        for title, entrance in known
    ]


ROW = Row(
    "workers",
    "Router workers",
    f"As in A hop; and by HTTP/JSON over as many connections as callers, one answer each or {TOKENS} server-sent events, where one worker "
    "has its thread full while the cores are not. The load and the replica share the cores with the workers, so that two cannot be "
    "twice one: how many of the cores are the routers' is told, and how many all of them keep busy.",
    cases,
    figures,
)
