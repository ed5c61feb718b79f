"""What a hop costs: a unary echo of 100 bytes through everything that may stand before a replica."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.figures import CPU, Case, Figure
from bench.rows.stage import TITLES, Row, Size, Stage, Take
from bench.targets import envoy
from bench.targets.target import Target


async def cases(stage: Stage) -> Sequence[Case]:
    """Every target at every concurrency."""
    servers = stage.servers
    cluster = await servers.cluster()
    targets = {
        "bare": await servers.bare(),
        "naive": await servers.naive(),
        "router": cluster.router,
        "replica": cluster.replica,
    }
    if envoy.available():
        targets["envoy_aio"] = await servers.envoy_and_aio()
        targets["envoy_core"] = await servers.envoy_and_core()
    return [
        Case(f"{name}@{concurrency}", f"{TITLES[name]}, {concurrency} concurrent", _take(stage, target, concurrency))
        for concurrency in stage.size.concurrencies
        for name, target in targets.items()
    ]


def _take(stage: Stage, target: Target, concurrency: int) -> Take:
    return lambda seconds: stage.unary(target, concurrency, seconds)


def figures(size: Size) -> Sequence[Figure]:
    """Ratios of throughput at many callers, of the median latency at one."""
    return [one for concurrency in size.concurrencies for one in (_alone() if concurrency == 1 else _many(concurrency))]


def _alone() -> Sequence[Figure]:
    return [
        _latency("router over bare grpc.aio", "router", "bare", goal=1.5),
        _latency("naive two-hop proxy over bare grpc.aio", "naive", "bare"),
        _latency("replica directly over bare grpc.aio", "replica", "bare"),
        _latency("router over Envoy, both before our replica", "router", "envoy_core"),
    ]


def _latency(title: str, case: str, baseline: str, *, goal: float | None = None) -> Figure:
    return Figure(
        title=f"{title}, p50 at 1",
        case=f"{case}@1",
        baseline=f"{baseline}@1",
        measure="p50_ms",
        goal=goal,
        at_most=True,
    )


def _costs(concurrency: int) -> Sequence[Figure]:
    """What others do on the machine disturbs these less than what is counted by the second."""
    known = (
        ("router and replica over bare grpc.aio", "router", "bare"),
        ("router and replica over naive two-hop proxy", "router", "naive"),
        ("replica directly over bare grpc.aio", "replica", "bare"),
        ("router and replica over Envoy and our replica", "router", "envoy_core"),
    )
    return [
        Figure(
            title=f"{title}, CPU a request at {concurrency}",
            case=f"{case}@{concurrency}",
            baseline=f"{baseline}@{concurrency}",
            measure=CPU,
            at_most=True,
        )
        for title, case, baseline in known
    ]


def _many(concurrency: int) -> Sequence[Figure]:
    known = (
        ("router over bare grpc.aio", "router", "bare", 2.5),
        ("router over naive two-hop proxy", "router", "naive", 5.0),
        ("replica directly over bare grpc.aio", "replica", "bare", 2.5),
        ("router over Envoy before grpc.aio", "router", "envoy_aio", 2.0),
        ("router over Envoy before our replica", "router", "envoy_core", 0.6),
    )
    rates = [
        Figure(
            title=f"{title}, requests/s at {concurrency}",
            case=f"{case}@{concurrency}",
            baseline=f"{baseline}@{concurrency}",
            measure="req_s",
            goal=goal if concurrency == 64 else None,
        )
        for title, case, baseline, goal in known
    ]
    return [*rates, *_costs(concurrency)]


ROW = Row("hop", "A hop", "Unary echo of 100 bytes, by h2load in a closed loop.", cases, figures)
