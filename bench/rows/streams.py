"""Streams of small items through the router, as a language model gives tokens."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import Case, Figure
from bench.rows.stage import TITLES, Row, Size, Stage, Take
from bench.targets.target import Target

ITEM_BYTES = 20
EVERY_MS = 20


async def cases(stage: Stage) -> Sequence[Case]:
    """Each target as fast as items are taken, and at the pace of a model."""
    servers = stage.servers
    targets = {
        "bare": await servers.bare(),
        "naive": await servers.naive(),
        "router": (await servers.cluster()).router,
    }
    return [
        case
        for name, target in targets.items()
        for case in (
            Case(f"{name}.full", f"{TITLES[name]}, at full speed", _take(stage, target, 0, stage.size.items)),
            Case(f"{name}.paced", f"{TITLES[name]}, an item every {EVERY_MS} ms", _paced(stage, target)),
        )
    ]


def _paced(stage: Stage, target: Target) -> Take:
    # Long enough to see the gaps of a hundred streams; the whole of them would take four seconds.
    return _take(stage, target, EVERY_MS, max(2, stage.size.items // 4))


def _take(stage: Stage, target: Target, every_ms: int, count: int) -> Take:
    question = {
        "kind": "items",
        "streams": stage.size.streams,
        "count": count,
        "size": ITEM_BYTES,
        "every_ms": every_ms,
    }
    return lambda _: stage.offered(target, question)


def figures(_: Size) -> Sequence[Figure]:
    """Items a second, and the time between items when they come at a pace."""
    known = (("bare grpc.aio", "bare", 1.5), ("naive two-hop proxy", "naive", None))
    return [
        *(
            Figure(
                title=f"streaming through the router over {title}, items/s",
                case="router.full",
                baseline=f"{name}.full",
                measure="items_s",
                goal=goal,
            )
            for title, name, goal in known
        ),
        *(
            Figure(
                title=f"paced stream through the router over {title}, p99 between items",
                case="router.paced",
                baseline=f"{name}.paced",
                measure="gap_p99_ms",
                at_most=True,
            )
            for title, name, _ in known
        ),
    ]


ROW = Row(
    "streams",
    "Streams",
    f"100 streams at once, of 200 items of {ITEM_BYTES} bytes; paced: of 50, one every {EVERY_MS} ms. CPU is per item.",
    cases,
    figures,
)
