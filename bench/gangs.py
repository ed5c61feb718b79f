"""Gangs that something is done to under a steady load: who notices, and for how long?

A member of one of the gangs is killed; all gangs are replaced by a rolling update; a node is drained. Only what was inside the
killed member may fail, and as many gangs as promised must always be whole. Exits 1 if anything was wrong.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.gang_stage import GangStage, RouterWatch, ganged_spec, gangs_of
from bench.operating import whole
from bench.steady import Call, SteadyLoad
from bench.variants import run_all, show_failed
from serve_core.client import ControllerClient
from serve_core.model.status import DeploymentStatus

WORK_S = 0.1
"""How long each call works: long enough that some are inside of whatever is killed."""

NOTICED_WITHIN_S = 5.0
"""A killed process takes a moment to be gone, and a busy machine lets whoever sends to it see that late: what was sent until then counts
as inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many gangs there are, of how many members, under how many calls a second."""

    gangs: int = 3
    members: int = 4
    rate_per_s: float = 100.0


@dataclass(slots=True, kw_only=True)
class Result:
    """What one variant showed.

    Attributes:
        inside: Calls that failed inside the killed member, as they should.
        finished: Calls inside the other members of its gang when it was killed, that were answered.
        wrong: Calls that failed otherwise.
        least: How many whole gangs the router should always route to.
        fewest: How many it did at least, each time it was asked.
        took_s: Until all gangs were whole again, and everything old was gone.
    """

    variant: str
    least: int
    calls: int = 0
    inside: list[Call] = field(default_factory=list)
    finished: int = 0
    wrong: list[Call] = field(default_factory=list)
    fewest: int = 0
    took_s: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether nobody else noticed."""
        return not self.wrong and self.fewest >= self.least


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a variant does something to."""

    size: Size
    stage: GangStage
    load: SteadyLoad
    watch: RouterWatch
    before: DeploymentStatus
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A member that was killed, and the processes of the others of its gang. ``at`` is in monotonic seconds, just before."""

    at: float
    replica_id: str
    siblings: frozenset[int]

    def explains(self, call: Call) -> bool:
        """Whether a call failed because it was inside."""
        inside = call.sent_at - NOTICED_WITHIN_S <= self.at <= call.ended_at
        return inside and (call.reason, call.replica_id) == ("REPLICA_DIED", self.replica_id)

    def was_survived_by(self, call: Call) -> bool:
        """Whether a call was inside another member then, and was answered."""
        return call.pid in self.siblings and call.sent_at < self.at < call.ended_at


async def kill(scene: Scene) -> Blow:
    """Kills the member of rank 1 of a gang, and waits until as many gangs are whole as before, that one anew."""
    gang_id, members = next(iter(gangs_of(scene.before).items()))
    victim, epoch = members[1], members[1].replica.gang.epoch
    siblings = frozenset(one.pid for one in members if one is not victim)
    blow = Blow(at=time.monotonic(), replica_id=victim.replica.replica_id, siblings=siblings)
    os.kill(victim.pid, signal.SIGKILL)
    await scene.watch.until(lambda now: (gang_id, epoch) not in now and len(now) == scene.size.gangs)
    return blow


async def update(scene: Scene) -> None:
    """Deploys another version, and waits until nothing else is left."""
    spec = ganged_spec(2, num_replicas=scene.before.num_replicas, **scene.options)
    await scene.stage.operator.until_whole(await scene.stage.operator.deploy(spec))


async def migrate(scene: Scene) -> None:
    """Drains the node of a gang, and waits until nothing is left there."""
    node = scene.before.replicas[0].replica.node_id
    async with ControllerClient(scene.stage.cluster.controller_address) as client:
        await client.drain_node(node)
    await scene.stage.operator.until_deployment(
        lambda seen: whole(seen) and all(one.replica.node_id != node for one in seen.replicas)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is done.

    Attributes:
        act: Does it.
        spare: For how many gangs there is room beside those that serve.
        lost: How many gangs may be missing meanwhile.
        on_member_failure: Of the gangs.
    """

    act: Callable[[Scene], Awaitable[Blow | None]]
    spare: int = 1
    lost: int = 0
    on_member_failure: str = "RESTART_GANG"


VARIANTS = {
    "kill": Variant(act=kill, lost=1),
    "repair": Variant(act=kill, lost=1, on_member_failure="RESTART_REPLICA"),
    "update": Variant(act=update),
    "tight": Variant(act=update, spare=0, lost=1),
    "migrate": Variant(act=migrate),
}


async def measure(name: str, size: Size) -> Result:
    """Runs one variant on a cluster of its own, with one node for each gang."""
    variant = VARIANTS[name]
    result = Result(variant=name, least=size.gangs - variant.lost)
    room = {f"node-{number}": size.members for number in range(size.gangs + variant.spare)}
    options = {
        "gang": {"size": size.members, "on_member_failure": variant.on_member_failure},
        "max_unavailable": variant.lost * size.members,
    }
    with tempfile.TemporaryDirectory(prefix="serve-core-gangs-") as folder:
        async with GangStage(Path(folder), room) as stage:
            before = await stage.serve(1, num_replicas=size.gangs * size.members, **options)
            async with stage.load(rate_per_s=size.rate_per_s, work_s=WORK_S) as load, stage.watched() as watch:
                scene = Scene(size=size, stage=stage, load=load, watch=watch, before=before, options=options)
                began = time.monotonic()
                blow = await variant.act(scene)
                result.took_s = time.monotonic() - began
    result.calls, result.fewest = len(load.calls), watch.fewest
    for call in load.failed:
        (result.inside if blow is not None and blow.explains(call) else result.wrong).append(call)
    result.finished = 0 if blow is None else sum(map(blow.was_survived_by, load.calls))
    return result


def show(result: Result) -> None:
    """Prints what one variant showed."""
    print(f"{result.variant}: {result.calls} calls; {result.took_s:.2f} s until everything was whole again")
    show_failed(result.wrong)
    if VARIANTS[result.variant].act is kill:
        print(
            f"  failed inside the killed member: {len(result.inside)}; inside its siblings and answered: {result.finished}"
        )
    print(f"  whole gangs that the router routed to: never fewer than {result.fewest} (wanted: {result.least})")


@click.command(help=__doc__)
@click.argument("variants", nargs=-1, type=click.Choice(sorted(VARIANTS)))
@click.option("--gangs", default=3, show_default=True, help="Gangs.")
@click.option("--members", default=4, show_default=True, help="Members of each.")
@click.option("--rate", default=100.0, show_default=True, help="Calls a second.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(variants: tuple[str, ...], gangs: int, members: int, rate: float, output: str) -> None:
    size = Size(gangs=gangs, members=members, rate_per_s=rate)
    names = variants or tuple(VARIANTS)
    fine = asyncio.run(run_all(names, lambda name: measure(name, size), show, as_json=output == "json"))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
