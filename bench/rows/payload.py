"""Large messages, and streams of as much: how fast they pass, and how often a process holds them at once."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measure.processes import peak_mb, reset_peak, rss_mb
from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import TITLES, Row, Size, Stage, Take
from bench.targets.programs import Program
from bench.targets.target import Target

KINDS = {"unary": "one message each way", "stream": "items of 64 KiB"}
MB = 1e6


async def cases(stage: Stage) -> Sequence[Case]:
    """Each target by one caller: an echo, and a stream of as many bytes."""
    servers = stage.servers
    cluster = await servers.cluster()
    targets = {
        "bare": await servers.bare(),
        "naive": await servers.naive(),
        "router": cluster.router,
        "replica": cluster.replica,
    }
    ways = {"unary": "grpc", "stream": "stream"}
    found = []
    for name, target in targets.items():
        for kind, way in ways.items():
            callers = await servers.program("bench.load.callers", way, target.address)
            found.append(_case(stage, f"{name}.{kind}", TITLES[name], KINDS[kind], callers, target))
    embedded = await servers.program("bench.load.callers", "embedded", cluster.controller)
    arrays = await servers.program("bench.load.callers", "arrays", cluster.controller)
    return [
        *found,
        _case(stage, "embedded.unary", TITLES["embedded"], "one value each way", embedded, cluster.replica),
        _case(stage, "embedded.array", TITLES["embedded"], "one numpy array each way", arrays, cluster.replica),
    ]


def _case(stage: Stage, name: str, title: str, what: str, callers: Program, target: Target) -> Case:
    return Case(name, f"{title}, {what}", _take(stage, callers, target))


def _take(stage: Stage, callers: Program, target: Target) -> Take:
    size = stage.size.payload_bytes

    async def take(seconds: float) -> Sample:
        pids = {name: pids[0] for name, pids in target.processes.items()}
        before = {name: rss_mb(pid) for name, pid in pids.items()}
        for pid in pids.values():
            reset_peak(pid)
        sample = await stage.called(callers.ask, target, concurrency=1, size=size, seconds=seconds)
        held = {name: (peak_mb(pid) - before[name]) * MB / size for name, pid in pids.items()}
        values = {
            "mb_s": sample.values["req_s"] * size / MB,
            "p50_ms": sample.values["p50_ms"],
            **{f"held by {name}": times for name, times in held.items()},
        }
        return Sample(values, sample.cpu_us)

    return take


def figures(_: Size) -> Sequence[Figure]:
    """Speed over a bare server's, and over a naive proxy's: a hop moves everything twice."""
    known = (
        ("10 MiB echo through the router", "router.unary", "bare.unary"),
        ("10 MiB echo through the router", "router.unary", "naive.unary"),
        ("10 MiB echo by an embedded router", "embedded.unary", "bare.unary"),
        ("10 MiB numpy array there and back by an embedded router", "embedded.array", "bare.unary"),
        ("10 MiB stream through the router", "router.stream", "bare.stream"),
        ("10 MiB stream through the router", "router.stream", "naive.stream"),
    )
    return [
        Figure(
            title=f"{title} over {TITLES[baseline.partition('.')[0]]}, MB/s",
            case=case,
            baseline=baseline,
            measure="mb_s",
        )
        for title, case, baseline in known
    ]


ROW = Row(
    "payload",
    "Large payloads",
    "10 MiB at a time by one Python caller. Held: how often the payload fits into what a process grew by at its peak, above what "
    "it had before the round; what it kept from earlier rounds is not counted again.",
    cases,
    figures,
)
