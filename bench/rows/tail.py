"""The tail of the latency, at a rate that a bare server can still take: an open loop, timed from when calls were due."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.target import Target

SHARE = 0.7
"""Of the bare server's maximum."""

TRIES = 5
CONCURRENCY = 64
LONGER = 5
"""How many times as long a round is as others: the slowest hundredth of a second's calls may all be of one hiccup."""

ROUNDS_TIMES = 2
WARM_S = 0.5


async def cases(stage: Stage) -> Sequence[Case]:
    """The same rate for everybody: a share of what the bare server takes in a closed loop."""
    servers = stage.servers
    bare, router = await servers.bare(), (await servers.cluster()).router
    # What the first calls to a process meet, such as memory that it has not had yet, is none of the maximum's.
    for target in (bare, router):
        await stage.unary(target, CONCURRENCY, WARM_S)
    most = [(await stage.unary(bare, CONCURRENCY, WARM_S)).values["req_s"] for _ in range(TRIES)]
    rate_s = SHARE * statistics.median(most)
    return [
        Case("bare", "bare grpc.aio server", _take(stage, bare, rate_s)),
        Case("router", "through the router", _take(stage, router, rate_s)),
    ]


def _take(stage: Stage, target: Target, rate_s: float) -> Take:
    async def take(seconds: float) -> Sample:
        question = {"kind": "open", "rate_s": rate_s, "size": ECHO_BYTES}
        sample = await stage.offered(target, {**question, "warm_s": WARM_S, "seconds": seconds * LONGER})
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
    "An open loop: calls are sent when a schedule says so, and each is timed from then, however late it was sent. Rounds are "
    f"{LONGER} times as long as others and {ROUNDS_TIMES} times as many, after {WARM_S:g} s that do not count. The figure is the "
    "median over the rounds of one p99 over the other: the p99 of all calls together would be that of the one or two rounds in which "
    "something else took the machine.",
    cases,
    figures,
    rounds_times=ROUNDS_TIMES,
)
