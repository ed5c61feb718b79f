"""What a cluster costs that nobody calls: CPU time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bench.measure.processes import CpuMeter, pss_mb, rss_mb
from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import Row, Size, Stage, Take

ROUNDS_MAX = 2
ROLES = ("controller", "router", "replica")
GOALS_MB = {"controller": 60.0, "router": 60.0, "replica": 50.0}


async def cases(stage: Stage) -> Sequence[Case]:
    """A cluster of a few replicas, beside as many bare servers."""
    count = stage.size.replicas[0]
    known = await stage.servers.replicas()
    await known.become(count)
    pids = {
        "controller": [known.cluster.controller_pid],
        "router": [known.cluster.router_pid],
        "replica": list(await known.pids()),
        "bare": [(await stage.servers.program("bench.targets.bare")).pid for _ in range(count)],
    }
    ours = {role: pids[role] for role in ROLES}
    return [
        Case("bare", f"{count} idle bare grpc.aio servers", cpu({"bare": pids["bare"]}, stage.size.idle_s)),
        Case("cluster", f"controller, router and {count} idle replicas", cpu(ours, stage.size.idle_s)),
        Case("bare.memory", "bare grpc.aio server", memory(pids["bare"][0])),
        *(Case(f"{role}.memory", f"idle {role}", memory(pids[role][0])) for role in ROLES),
    ]


def cpu(pids: Mapping[str, Sequence[int]], seconds: float) -> Take:
    """CPU time of all together, of one core."""

    async def take(_: float) -> Sample:
        meter = CpuMeter(pids)
        await asyncio.sleep(seconds)
        return Sample({"cpu_percent": meter.percent()})

    return take


def memory(pid: int) -> Take:
    """Of one process, with what it shares and with its share of that."""

    async def take(_: float) -> Sample:
        return Sample({"rss_mb": rss_mb(pid), "pss_mb": pss_mb(pid)})

    return take


def figures(size: Size) -> Sequence[Figure]:
    """CPU and memory as they are, and over bare servers'."""
    count = size.replicas[0]
    return [
        Figure(
            title=f"controller, router and {count} idle replicas",
            case="cluster",
            measure="cpu_percent",
            goal=2.0,
            at_most=True,
            unit="% of a core",
        ),
        *(
            Figure(
                title=f"memory of an idle {role}, RSS",
                case=f"{role}.memory",
                measure="rss_mb",
                goal=goal,
                at_most=True,
                unit="MB",
            )
            for role, goal in GOALS_MB.items()
        ),
        Figure(
            title="memory of an idle replica over a bare grpc.aio server, RSS",
            case="replica.memory",
            baseline="bare.memory",
            measure="rss_mb",
            at_most=True,
        ),
    ]


ROW = Row(
    "idle",
    "At rest",
    "CPU time of all processes together, in percent of one core, and the memory of one of each kind.",
    cases,
    figures,
    ROUNDS_MAX,
)
