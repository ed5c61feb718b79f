"""A deployment actor that something is done to under a steady load: who notices, for how long, and what does it forget?

It is killed between two snapshots, or right after one that was asked for; or an update brings an actor that never becomes ready.
No call may fail; what was stored may not be lost, and of the rest no more than an interval's. Exits 1 if anything was wrong.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

import serve_core
from bench.actor_app import Life, Notebook, Noting, noting
from bench.operating import APPLICATION, KEY, ROOT, Operator
from bench.steady import Call, SteadyLoad, quantile_s
from bench.variants import run_all, show_failed
from serve_core import DeploymentActor
from serve_core.api import build
from serve_core.client import ControllerClient
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import DeploymentStatus, RolloutPhase

WORK_S = 0.02
"""How long each call is inside the actor: long enough that some are when it is killed."""

CALLERS = 256
"""Enough to keep up the rate while all calls wait for the actor."""

STORED_WITHIN_S = 1.0
"""The snapshot that was due may be on its way still."""

SNAPSHOT_INTERVAL_S = 1.0
START_DEADLINE_S = 2.0
SOME_CALLS = 30
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many calls a second there are, and for how long before anything happens."""

    rate_per_s: float = 100.0
    calm_s: float = 3.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What one variant showed. Latencies are in milliseconds.

    Attributes:
        failed: Calls that got no answer.
        took_s: Until the next life of the actor answered, or until the update was rolled back.
        known: Calls that the killed life had answered.
        lost: How many of these the next one did not know.
        oldest_lost_s: For how long the longest known of them had been answered.
        stored: Calls that were answered when a snapshot was asked for, which then was acknowledged.
        stored_lost: How many of these the next life did not know.
        newer: Calls that were answered by the revision that never became ready.
        wrong: What else was not as it should be.
    """

    variant: str
    calls: int = 0
    failed: list[Call] = field(default_factory=list)
    took_s: float = 0.0
    known: int = 0
    lost: int = 0
    oldest_lost_s: float = 0.0
    stored: int = 0
    stored_lost: int = 0
    newer: int = 0
    p50_before_ms: float = 0.0
    worst_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether nobody noticed, and nothing was forgotten that should not have been."""
        return not (self.failed or self.wrong)


def notebook(*, hang: bool = False, **settings: Any) -> DeploymentActor:
    """The actor."""
    return DeploymentActor("notebook", Notebook, kwargs={"hang": hang}, on_failure="RESTART_FROM_SNAPSHOT", **settings)


def noting_spec(version: int, actor: DeploymentActor, **options: Any) -> ApplicationSpec:
    """``Noting`` at a version, with this actor, as the application ``steady``."""
    return build(noting.options(working_dir=str(ROOT), actors=[actor], **options).bind(version), APPLICATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a variant does something to."""

    controller: str
    operator: Operator
    handle: Any
    load: SteadyLoad
    before: DeploymentStatus

    async def life(self) -> Life:
        """The life of the actor that serves, or the next one that does."""
        life: Life = await self.handle.notebook()
        return life

    async def snapshot(self) -> None:
        """Has the actor save its state, and waits until that is acknowledged."""
        async with ControllerClient(self.controller) as client:
            await client.snapshot_actor(*KEY, "notebook")

    def answered(self, before: float) -> Sequence[Call]:
        """The calls that were answered before then, in monotonic seconds."""
        return [call for call in self.load.calls if not call.failed and call.ended_at < before]


async def kill(scene: Scene, result: Result) -> frozenset[int]:
    """Kills the actor, and waits until its next life answers. Returns the requests that this one knows."""
    (actor,) = scene.before.actors
    killed_at = time.monotonic()
    os.kill(actor.pid, signal.SIGKILL)
    life = await scene.life()
    result.took_s = time.monotonic() - killed_at
    if life.incarnation != actor.incarnation + 1:
        result.wrong.append(f"incarnation {life.incarnation} followed {actor.incarnation}")
    known, restored = scene.answered(killed_at), frozenset(life.restored)
    lost = [call for call in known if call.number not in restored]
    result.known, result.lost = len(known), len(lost)
    result.oldest_lost_s = max((killed_at - call.ended_at for call in lost), default=0.0)
    return restored


async def kill_between_snapshots(scene: Scene, result: Result) -> None:
    """Kills it at any time: what changed since the last snapshot is lost."""
    await kill(scene, result)
    if result.oldest_lost_s > SNAPSHOT_INTERVAL_S + STORED_WITHIN_S:
        result.wrong.append(f"more is lost than is new in {SNAPSHOT_INTERVAL_S:g} s")


async def kill_after_snapshot(scene: Scene, result: Result) -> None:
    """Kills it once a snapshot is acknowledged, the only one that there is: of that nothing is lost."""
    stored = scene.answered(time.monotonic())
    await scene.snapshot()
    restored = await kill(scene, result)
    result.stored = len(stored)
    result.stored_lost = sum(call.number not in restored for call in stored)
    if result.stored_lost:
        result.wrong.append("what was acknowledged is lost")


async def update_that_hangs(scene: Scene, result: Result) -> None:
    """Deploys a revision whose actor never becomes ready, and waits until that is rolled back."""
    began = time.monotonic()
    actor = notebook(hang=True, start_deadline_s=START_DEADLINE_S, max_restarts=0)
    await scene.operator.deploy(noting_spec(2, actor, num_replicas=scene.before.num_replicas, max_unavailable=1))
    after = await scene.operator.until_deployment(
        lambda seen: seen.rollout is not None and seen.rollout.phase is RolloutPhase.ROLLED_BACK
    )
    result.took_s = time.monotonic() - began
    if [one.pid for one in after.replicas] != [one.pid for one in scene.before.replicas]:
        result.wrong.append("the replicas are not those from before")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is done, to how many replicas, with which settings of their actor."""

    act: Callable[[Scene, Result], Awaitable[None]]
    replicas: int = 2
    snapshot_interval_s: float = 0.0


VARIANTS = {
    "kill": Variant(act=kill_between_snapshots, snapshot_interval_s=SNAPSHOT_INTERVAL_S),
    "snapshot": Variant(act=kill_after_snapshot),
    "update": Variant(act=update_that_hangs, replicas=1),
}


async def measure(name: str, size: Size) -> Result:
    """Runs one variant on a cluster of its own."""
    variant, result = VARIANTS[name], Result(variant=name)
    async with LocalCluster(LocalClusterConfig(cpus=4.0)) as cluster, Operator(cluster.controller_address) as operator:
        actor = notebook(snapshot_interval_s=variant.snapshot_interval_s)
        spec = noting_spec(1, actor, num_replicas=variant.replicas, max_unavailable=1)
        before = await operator.until_whole(await operator.deploy(spec))
        handle = serve_core.get_handle(APPLICATION, controller=cluster.controller_address, target=Noting)
        load = SteadyLoad(cluster.router_address, rate_per_s=size.rate_per_s, callers=CALLERS, work_s=WORK_S)
        scene = Scene(controller=cluster.controller_address, operator=operator, handle=handle, load=load, before=before)
        await scene.life()  # connected before anything is measured
        async with load.around(before=max(SOME_CALLS, int(size.rate_per_s * size.calm_s)), after=SOME_CALLS):
            began = time.monotonic()
            await variant.act(scene, result)
        await serve_core.close(cluster.controller_address)
    count(result, load.calls, began)
    return result


def count(result: Result, calls: Sequence[Call], began: float) -> None:
    """Takes stock of all calls."""
    result.calls, result.failed = len(calls), [call for call in calls if call.failed]
    result.p50_before_ms = quantile_s([call for call in calls if call.ended_at < began], 0.5) * 1000
    result.worst_ms = quantile_s(calls, 1.0) * 1000
    result.newer = sum(call.version == 2 for call in calls)
    if result.newer:
        result.wrong.append("the revision that is not ready has answered")


def show(result: Result) -> None:
    """Prints what one variant showed."""
    until = "it was rolled back" if result.variant == "update" else "the next incarnation answered"
    print(f"{result.variant}: {result.calls} calls; {result.took_s * 1000:.0f} ms until {until}")
    show_failed(result.failed)
    print(f"  latency: p50 {result.p50_before_ms:.0f} ms before, the longest {result.worst_ms:.0f} ms")
    if result.known:
        oldest = f", the oldest answered {result.oldest_lost_s:.2f} s before" if result.lost else ""
        print(f"  forgotten: {result.lost} of the {result.known} requests that were answered before the kill{oldest}")
    if result.stored:
        print(f"  forgotten of the {result.stored} in an acknowledged snapshot: {result.stored_lost} (wanted: 0)")
    if result.variant == "update":
        print(f"  answered by the revision that was rolled back: {result.newer} (wanted: 0)")
    for what in result.wrong:
        print(f"  WRONG: {what}")


@click.command(help=__doc__)
@click.argument("variants", nargs=-1, type=click.Choice(sorted(VARIANTS)))
@click.option("--rate", default=100.0, show_default=True, help="Calls a second.")
@click.option("--calm", default=3.0, show_default=True, help="Seconds of calls before anything happens.")
@click.option("--rounds", default=1, show_default=True, help="How often each variant is run.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(variants: tuple[str, ...], rate: float, calm: float, rounds: int, output: str) -> None:
    names = (variants or tuple(VARIANTS)) * rounds
    size = Size(rate_per_s=rate, calm_s=calm)
    fine = asyncio.run(run_all(names, lambda name: measure(name, size), show, as_json=output == "json"))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
