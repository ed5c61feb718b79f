"""Reserving a slot before each call, by a client outside of the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import Case, Figure
from bench.rows.stage import ECHO_BYTES, WARM_S, Row, Size, Stage, Take
from bench.targets.servers import APPLICATION
from bench.targets.target import Target


async def cases(stage: Stage) -> Sequence[Case]:
    """Pairs through the router, beside single calls of the bare server by the same generator."""
    bare, router = await stage.servers.bare(), (await stage.servers.cluster()).router
    return [
        case
        for concurrency in stage.size.concurrencies
        for case in (
            Case(
                f"bare@{concurrency}",
                f"bare grpc.aio server, single calls, {concurrency} concurrent",
                _take(stage, bare, {"kind": "closed"}, concurrency),
            ),
            Case(
                f"pairs@{concurrency}",
                f"reserve + dispatch through the router, {concurrency} concurrent",
                _take(stage, router, {"kind": "pairs", "application": APPLICATION}, concurrency),
            ),
        )
    ]


def _take(stage: Stage, target: Target, question: dict[str, str], concurrency: int) -> Take:
    asked = {**question, "concurrency": concurrency, "size": ECHO_BYTES, "warm_s": WARM_S}
    return lambda seconds: stage.offered(target, {**asked, "seconds": seconds})


def figures(size: Size) -> Sequence[Figure]:
    """Pairs a second over calls a second."""
    return [
        Figure(
            title=f"reserve + dispatch pairs over single calls to bare grpc.aio, at {concurrency}",
            case=f"pairs@{concurrency}",
            baseline=f"bare@{concurrency}",
            measure="req_s",
            goal=1.2 if concurrency == 64 else None,
        )
        for concurrency in size.concurrencies
    ]


ROW = Row(
    "pairs",
    "Reserve and dispatch, from outside",
    "A pair is a ReserveSlot and the echo that consumes its token. Both sides are called by the same generator in C, over as many "
    "connections as h2load has: 8 at 64 concurrent.",
    cases,
    figures,
)
