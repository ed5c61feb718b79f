"""A Python caller with a router in its own process, beside a Python caller of a bare server."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import CPU, Case, Figure
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.programs import Program
from bench.targets.target import Target

TITLES = {
    "grpc": "grpc.aio client, bare grpc.aio server",
    "embedded": "embedded router",
    "reserved": "embedded router, reserve + dispatch",
    "handle": "handle",
    "reserving_handle": "handle, choose_replica + dispatch",
}
OURS = tuple(way for way in TITLES if way != "grpc")


async def cases(stage: Stage) -> Sequence[Case]:
    """One caller process for each way to call."""
    servers = stage.servers
    bare, cluster = await servers.bare(), await servers.cluster()
    ways = {"grpc": (await servers.program("bench.load.callers", "grpc", bare.address), bare)}
    for way in OURS:
        ways[way] = (await servers.program("bench.load.callers", way, cluster.controller), cluster.replica)
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
    """Calls a second of each way over the plain client's, and the CPU time of both processes."""
    known = (
        ("embedded router", "embedded", 6.0),
        ("embedded reserve + dispatch", "reserved", 3.5),
        ("handle", "handle", None),
        ("handle, choose_replica + dispatch", "reserving_handle", None),
    )
    return [
        figure
        for concurrency in size.concurrencies
        for title, way, goal in known
        for figure in _beside_grpc(title, way, concurrency, goal if concurrency == 64 else None)
    ]


def _beside_grpc(title: str, way: str, concurrency: int, goal: float | None) -> Sequence[Figure]:
    case, baseline = f"{way}@{concurrency}", f"grpc@{concurrency}"
    over = f"{title} over grpc.aio client and server"
    rate = f"{over}, requests/s at {concurrency}"
    cost = f"{over}, CPU a request at {concurrency}"
    return (
        Figure(title=rate, case=case, baseline=baseline, measure="req_s", goal=goal),
        Figure(title=cost, case=case, baseline=baseline, measure=CPU, at_most=True),
    )


ROW = Row(
    "embedded",
    "Python callers",
    "One caller process and one server process, in a closed loop. The caller is part of what is measured. A handle is what users write: "
    "it encodes and decodes values around a call of the embedded router.",
    cases,
    figures,
)
