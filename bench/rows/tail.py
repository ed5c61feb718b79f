"""The tail of the latency, at a rate that a bare server can still take: an open loop, timed from when calls were due."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.target import Target

SHARE = 0.7
"""Of the bare server's maximum."""

TRIES = 3
TRY_S = 0.7
CONCURRENCY = 64


async def cases(stage: Stage) -> Sequence[Case]:
    """The same rate for everybody: a share of what the bare server takes in a closed loop."""
    servers = stage.servers
    bare, router = await servers.bare(), (await servers.cluster()).router
    most = [(await stage.unary(bare, CONCURRENCY, TRY_S)).values["req_s"] for _ in range(TRIES)]
    rate_s = SHARE * statistics.median(most)
    return [
        Case("bare", "bare grpc.aio server", _take(stage, bare, rate_s)),
        Case("router", "through the router", _take(stage, router, rate_s)),
    ]


def _take(stage: Stage, target: Target, rate_s: float) -> Take:
    async def take(seconds: float) -> Sample:
        question = {"kind": "open", "rate_s": rate_s, "seconds": seconds, "size": ECHO_BYTES}
        sample = await stage.offered(target, question)
        return Sample({"p99_ms": sample.values["p99_ms"], **sample.values, "rate_s": rate_s}, sample.cpu_us)

    return take


def figures(_: Size) -> Sequence[Figure]:
    """The tail over the bare server's."""
    return [
        Figure(
            title="p99 through the router over bare grpc.aio's, at 70 % of its maximum rate",
            case="router",
            baseline="bare",
            measure="p99_ms",
            goal=1.0,
            at_most=True,
        )
    ]


ROW = Row(
    "tail",
    "The tail, at a given rate",
    "An open loop: calls are sent when a schedule says so, and each is timed from then, however late it was sent.",
    cases,
    figures,
)
