"""A Python caller with a router in its own process, beside a Python caller of a bare server."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import Case, Figure
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.programs import Program
from bench.targets.target import Target

TITLES = {
    "grpc": "grpc.aio client, bare grpc.aio server",
    "embedded": "embedded router",
    "reserved": "embedded router, reserve + dispatch",
}


async def cases(stage: Stage) -> Sequence[Case]:
    """One caller process for each way to call."""
    servers = stage.servers
    bare, cluster = await servers.bare(), await servers.cluster()
    replica = cluster.replica
    ways = {
        "grpc": (await servers.program("bench.load.callers", "grpc", bare.address), bare),
        "embedded": (await servers.program("bench.load.callers", "embedded", cluster.controller), replica),
        "reserved": (await servers.program("bench.load.callers", "reserved", cluster.controller), replica),
    }
    return [
        Case(
            f"{way}@{concurrency}",
            f"{TITLES[way]}, {concurrency} concurrent",
            _take(stage, callers, target, concurrency),
        )
        for concurrency in stage.size.concurrencies
        for way, (callers, target) in ways.items()
    ]


def _take(stage: Stage, callers: Program, target: Target, concurrency: int) -> Take:
    return lambda seconds: stage.called(callers.ask, target, concurrency=concurrency, size=ECHO_BYTES, seconds=seconds)


def figures(size: Size) -> Sequence[Figure]:
    """Calls a second of each way over the plain client's."""
    known = (("embedded router", "embedded", 6.0), ("embedded reserve + dispatch", "reserved", 3.5))
    return [
        Figure(
            title=f"{title} over grpc.aio client and server, requests/s at {concurrency}",
            case=f"{way}@{concurrency}",
            baseline=f"grpc@{concurrency}",
            measure="req_s",
            goal=goal if concurrency == 64 else None,
        )
        for concurrency in size.concurrencies
        for title, way, goal in known
    ]


ROW = Row(
    "embedded",
    "Python callers",
    "One caller process and one server process, in a closed loop. The caller is part of what is measured.",
    cases,
    figures,
)
