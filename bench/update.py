"""Updates under a steady load: does anybody notice?

Counts the calls that failed (wanted: none), and prints the latency that 99 % of calls stay below while replicas are
replaced as a ratio to that before. Exits 1 if a call failed, or if a promise of a slot was lost.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, field

import click

from bench.operating import APPLICATION, Operator, conserved, counters, steady_spec, total
from bench.steady import Call, Retry, SteadyLoad, quantile_s
from bench.variants import run_all, show_failed
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.restarts import RestartPolicy
from serve_core.model.slots import SlotCounters
from serve_core.model.status import DeploymentStatus

CALM_SHARE = 0.25
"""The part of the calls that is sent before the first update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make it hard.

    Attributes:
        replicas: How many there are.
        every_s: Seconds from one deploy to the next, whether that one is through or not; None: calm between updates.
        kills: Whether the controller is killed during each update.
        restarts: Whether the router is restarted during each update.
    """

    replicas: int = 1
    every_s: float | None = None
    kills: bool = False
    restarts: bool = False


VARIANTS = {
    "one": Variant(),
    "four": Variant(replicas=4),
    "often": Variant(replicas=2, every_s=4.0),
    "controller": Variant(replicas=2, kills=True),
    "router": Variant(replicas=2, restarts=True),
}


@dataclass(slots=True, kw_only=True)
class Result:
    """What one variant showed. Latencies are in milliseconds."""

    variant: str
    updates: int = 0
    kills: int = 0
    restarts: int = 0
    calls: int = 0
    calls_during: int = 0
    failed: list[Call] = field(default_factory=list)
    p99_before_ms: float = 0.0
    p99_during_ms: float = 0.0
    last_version: int = 0
    last_answered_version: int = 0
    promises: SlotCounters = field(default_factory=SlotCounters)

    @property
    def ratio(self) -> float:
        """p99 during updates over p99 before them."""
        return self.p99_during_ms / self.p99_before_ms if self.p99_before_ms else 0.0

    @property
    def fine(self) -> bool:
        """Whether nobody noticed, and every promise is accounted for."""
        return not self.failed and conserved(self.promises) and self.last_answered_version == self.last_version


class Updates:
    """Updates of one cluster under one load.

    Args:
        name: One of ``VARIANTS``.
        cluster: Running.
        operator: Connected to it.
        load: Running, too.
        seed: When to kill is drawn from it.
    """

    def __init__(self, name: str, cluster: LocalCluster, operator: Operator, load: SteadyLoad, *, seed: int) -> None:
        self._variant = VARIANTS[name]
        self._cluster = cluster
        self._operator = operator
        self._load = load
        self._random = random.Random(seed)
        self._windows: list[tuple[float, float]] = []
        self.result = Result(variant=name, last_version=1)

    async def until(self, calls: int, *, calm_calls: int) -> DeploymentStatus:
        """Updates until so many calls were made, and at least once; the deployment in the end."""
        while True:
            began = time.monotonic()
            deployment = await self._update()
            self._windows.append((began, time.monotonic()))
            if len(self._load.calls) >= calls:
                return deployment
            if self._variant.every_s is None:
                await self._load.more(calm_calls)

    async def _update(self) -> DeploymentStatus:
        generation = await self._deploy()
        if self._variant.kills:
            await self._kill_controller()
        if self._variant.restarts:
            await self._cluster.restart_router()
            self.result.restarts += 1
        if self._variant.every_s is not None:
            await self._load.more(int(self._load.rate_per_s * self._variant.every_s))
            generation = await self._deploy()
        return await self._operator.until_whole(generation)

    async def _deploy(self) -> int:
        self.result.last_version += 1
        self.result.updates += 1
        spec = steady_spec(self.result.last_version, num_replicas=self._variant.replicas)
        return await self._operator.deploy(spec)

    async def _kill_controller(self) -> None:
        """Kills it at a time of its own in each update: after a number of calls, so that a slow machine is hit, too."""
        pid = self._cluster.controller_pid
        await self._load.more(1 + self._random.randrange(int(self._load.rate_per_s)))
        await self._cluster.kill_controller()
        self.result.kills += 1
        await self._operator.until(lambda status: status.pid != pid)

    def count(self, calls: list[Call]) -> None:
        """Takes stock of all calls."""
        before = [call for call in calls if call.due_at < self._windows[0][0]]
        during = [call for call in calls if any(start <= call.due_at <= end for start, end in self._windows)]
        self.result.calls, self.result.calls_during = len(calls), len(during)
        self.result.failed = [call for call in calls if call.failed]
        self.result.p99_before_ms = quantile_s(before, 0.99) * 1000
        self.result.p99_during_ms = quantile_s(during, 0.99) * 1000
        self.result.last_answered_version = max(calls, key=lambda call: call.sent_at).version


async def measure(
    name: str, *, requests: int, rate_per_s: float, calm_s: float = 2.0, seed: int = 1, cpus: float = 4.0
) -> Result:
    """Runs one variant on a cluster of its own."""
    variant = VARIANTS[name]
    config = LocalClusterConfig(cpus=cpus, restart=True, restart_policy=RestartPolicy(restarts_max=10_000))
    async with LocalCluster(config) as cluster, Operator(cluster.controller_address) as operator:
        generation = await operator.deploy(steady_spec(1, num_replicas=variant.replicas))
        await operator.until_whole(generation)
        retry = Retry.UNAVAILABLE if variant.restarts else Retry.NOTHING
        load = SteadyLoad(cluster.router_address, rate_per_s=rate_per_s, retry=retry, application=APPLICATION)
        updates = Updates(name, cluster, operator, load, seed=seed)

        async def work() -> DeploymentStatus:
            await load.more(int(requests * CALM_SHARE), timeout_s=requests / rate_per_s + 60.0)
            deployment = await updates.until(requests, calm_calls=int(rate_per_s * calm_s))
            load.stop()
            return deployment

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            working = tasks.create_task(work())
        updates.count(load.calls)
        updates.result.promises = total(await counters(working.result()))
        return updates.result


def show(result: Result) -> None:
    """Prints what one variant showed."""
    done = [f"{result.updates} updates"]
    if result.kills:
        done.append(f"{result.kills} kills of the controller")
    if result.restarts:
        done.append(f"{result.restarts} restarts of the router")
    print(f"{result.variant}: {result.calls} calls, {result.calls_during} of them during {', '.join(done)}")
    show_failed(result.failed)
    print(
        f"  p99 {result.p99_before_ms:.1f} ms before, {result.p99_during_ms:.1f} ms during updates: "
        f"ratio {result.ratio:.2f}"
    )
    sums = result.promises
    verdict = "conserved" if conserved(sums) else "NOT CONSERVED"
    print(f"  promises of the replicas now there: {sums.issued} issued = {sums.ended} ended, {verdict}")


@click.command(help=__doc__)
@click.argument("variants", nargs=-1, type=click.Choice(sorted(VARIANTS)))
@click.option("--requests", default=100_000, show_default=True, help="Calls of each variant, at least.")
@click.option("--rate", default=500.0, show_default=True, help="Calls a second.")
@click.option("--calm", default=2.0, show_default=True, help="Seconds without change after each update.")
@click.option("--seed", default=1, show_default=True, help="Draws when the controller is killed.")
@click.option("-o", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(variants: tuple[str, ...], requests: int, rate: float, calm: float, seed: int, output: str) -> None:
    async def measure_one(name: str) -> Result:
        return await measure(name, requests=requests, rate_per_s=rate, calm_s=calm, seed=seed)

    fine = asyncio.run(run_all(variants or tuple(VARIANTS), measure_one, show, as_json=output == "json"))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
