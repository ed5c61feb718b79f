"""Ray Serve beside us: starts, updates, and what it costs at rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bench.measure.processes import CpuMeter, rss_mb
from bench.report.figures import Case, Figure, Sample
from bench.rows.stage import Row, Size, Stage, Take
from bench.targets.lives import Replicas, cold_start_s
from bench.targets.ray import Mode, RayServe

ROUNDS_MAX = 2


async def cases(stage: Stage) -> Sequence[Case]:
    """The same life for both: from nothing to an answer, replicas from none to ready, replaced, and left alone."""
    known = await stage.servers.replicas()
    return [
        Case("serve-core", "serve-core", _our_life(known, stage.size)),
        Case("ray", "Ray Serve", _ray_life(stage, stage.size)),
    ]


def _our_life(known: Replicas, size: Size) -> Take:
    count = size.replicas[0]

    async def take(_: float) -> Sample:
        cold_s = await cold_start_s()
        ready_s, update_s = await known.become(count), await known.become(count)
        processes = {
            "controller": [known.cluster.controller_pid],
            "router": [known.cluster.router_pid],
            "replica": list(await known.pids()),
        }
        values = {"cold_s": cold_s, "ready_s": ready_s, "update_s": update_s, **await rest(processes, size.idle_s)}
        await known.delete()
        return Sample(values)

    return take


def _ray_life(stage: Stage, size: Size) -> Take:
    count = size.replicas[0]

    async def take(_: float) -> Sample:
        async with RayServe(Mode.DEFAULT, stage.servers.ray_python) as ray:
            ready_s, update_s = [(await ray.ask({"ask": "replicas", "count": count}))["took_s"] for _ in range(2)]
            pids = ray.pids()
            # As many replicas as ours, though the echo has one as well; and all of Ray's other processes.
            processes = {"controller": pids["controller"], "router": pids["proxy"], "replica": pids["trivial"]}
            values = await rest({**processes, "rest": pids["rest"]}, size.idle_s)
            return Sample({"cold_s": ray.cold_s, "ready_s": ready_s, "update_s": update_s, **values})

    return take


async def rest(processes: Mapping[str, Sequence[int]], seconds: float) -> Mapping[str, float]:
    """What processes cost that nobody calls: CPU time of those of serving, and the memory of one of each kind."""
    serving = {name: pids for name, pids in processes.items() if name != "rest"}
    meter = CpuMeter(serving)
    await asyncio.sleep(seconds)
    memory = {f"{name}, MB": rss_mb(pids[0]) for name, pids in serving.items()}
    beside = sum(rss_mb(pid) for pid in processes.get("rest", ()))
    return {"cpu_percent": meter.percent(), **memory, "beside, MB": beside}


def figures(size: Size) -> Sequence[Figure]:
    """Each over Ray Serve's."""
    count = size.replicas[0]
    known = (
        ("cold start to the first answer", "cold_s", 0.25),
        (f"{count} trivial replicas from none to ready", "ready_s", 0.5),
        (f"rolling update of {count}", "update_s", 0.5),
        (f"CPU of controller, router and {count} idle replicas", "cpu_percent", None),
        ("memory of an idle replica", "replica, MB", None),
        ("memory of an idle router", "router, MB", None),
        ("memory of an idle controller", "controller, MB", None),
    )
    return [
        Figure(
            title=f"{title}, over Ray Serve",
            case="serve-core",
            baseline="ray",
            measure=measure,
            goal=goal,
            at_most=True,
        )
        for title, measure, goal in known
    ]


ROW = Row(
    "ray-life",
    "Ray Serve: starts, updates and rest",
    "CPU and memory are of the processes of serving alone; what Ray itself runs beside them is told as beside (RSS, summed).",
    cases,
    figures,
    ROUNDS_MAX,
)
