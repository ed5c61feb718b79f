"""Kills replicas, the router and the controller at random, once a second, under a steady load.

Only what was inside a killed process may fail, with the right reason; nothing may run twice; and in the end everything is
ready and nothing is left over. Prints what was killed and what became of the calls; exits 1 if anything was wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.operating import Operator, conserved, counters, deployment_of, processes_of, steady_spec, total
from bench.steady import Call, SteadyLoad
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy
from serve_core.model.slots import SlotCounters
from serve_core.model.status import ClusterStatus, DeploymentStatus

KINDS = ("replica", "replica", "router", "controller")
"""What is killed, each as likely."""

CPUS = 4.0
REPLICA_CPUS = 0.1
RESTARTS = RestartPolicy(restarts_max=10_000, backoff=Backoff(initial_s=0.1, factor=1.0, max_s=0.1, jitter=0.0))
"""Of the router and the controller."""

NOTICED_WITHIN_S = 1.0
"""A killed process takes a moment to be gone: what was sent to it until then counts as inside."""

START_FAILURES_MAX = 10_000
"""A replica that is killed while it starts has failed to start; here that is no reason to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A process that was killed, and when (monotonic seconds, just before)."""

    kind: str
    pid: int
    at: float
    replica_id: str = ""


@dataclass(slots=True, kw_only=True)
class Result:
    """What was done and seen.

    Attributes:
        inside_replica: Calls that failed inside a killed replica, as they should.
        inside_router: Calls that failed inside a killed router: their connection ended without a word.
        wrong: Calls that failed otherwise.
        refused: Tries that were refused before they ran, and were made again as the refusal asked for.
        twice: Numbers of requests that ran more than once.
        left_over: What should not be there in the end, in words.
    """

    seed: int
    kills: list[Kill] = field(default_factory=list)
    calls: int = 0
    inside_replica: list[Call] = field(default_factory=list)
    inside_router: list[Call] = field(default_factory=list)
    wrong: list[Call] = field(default_factory=list)
    refused: int = 0
    twice: list[int] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    promises: SlotCounters = field(default_factory=SlotCounters)
    settled_s: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether all of it was as promised."""
        return not (self.wrong or self.twice or self.left_over)


class Killer:
    """Kills one process after the other.

    Args:
        cluster: Running.
        operator: Connected to it.
        seed: Decides whom.
    """

    def __init__(self, cluster: LocalCluster, operator: Operator, *, seed: int) -> None:
        self._cluster = cluster
        self._operator = operator
        self._random = random.Random(seed)
        # Replicas that were ever seen: while the controller is away, the killing goes on by the last state.
        self._replicas: dict[int, str] = {}
        self.kills: list[Kill] = []

    async def watch(self) -> None:
        """Keeps up with who is there, until cancelled."""
        await self._operator.until(self._seen, timeout_s=float("inf"))

    async def run(self, seconds: float) -> None:
        """Kills once a second."""
        began = time.monotonic()
        for second in range(1, int(seconds) + 1):
            await asyncio.sleep(max(0.0, began + second - time.monotonic()))
            self._kill_one()

    def _seen(self, status: ClusterStatus) -> bool:
        deployment = deployment_of(status)
        if deployment is not None:
            self._replicas = {one.pid: one.replica.replica_id for one in deployment.replicas if one.pid}
        return False

    def _kill_one(self) -> None:
        """Kills one that is there: what was killed before may not be back yet, and then another one is."""
        kinds = self._random.sample(KINDS, len(KINDS))
        for kind in kinds:
            there = {
                "replica": sorted(self._replicas),
                "router": [self._cluster.router_pid],
                "controller": [self._cluster.controller_pid],
            }[kind]
            for pid in self._random.sample(there, len(there)):
                if pid and self._kill(kind, pid):
                    return

    def _kill(self, kind: str, pid: int) -> bool:
        kill = Kill(kind=kind, pid=pid, at=time.monotonic(), replica_id=self._replicas.pop(pid, ""))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append(kill)
        return True


def sort_failures(result: Result, calls: Iterable[Call]) -> None:
    """Says of each failed call whether a kill explains it."""
    for call in calls:
        if not call.failed:
            continue
        if call.status == "UNAVAILABLE" and call.reason == "REPLICA_DIED" and _explains(call, result.kills, "replica"):
            result.inside_replica.append(call)
        elif call.status == "UNAVAILABLE" and not call.reason and _explains(call, result.kills, "router"):
            result.inside_router.append(call)
        else:
            result.wrong.append(call)


def _explains(call: Call, kills: Iterable[Kill], kind: str) -> bool:
    """Whether a process of this kind (and for a replica: this very one) was killed while the call was under way."""
    return any(
        kill.kind == kind
        and call.sent_at - NOTICED_WITHIN_S <= kill.at <= call.ended_at
        and kill.replica_id == call.replica_id
        for kill in kills
    )


def ran_twice(journal: Path) -> list[int]:
    """The requests that the journal holds more than once."""
    ran = Counter(int(line) for line in journal.read_text().split())
    return sorted(number for number, times in ran.items() if times > 1)


def _as_it_should_be(status: ClusterStatus, replicas: int) -> str:
    """What is left over in the state, in words; empty if nothing is."""
    wrong = []
    held = sum(node.used.cpus for node in status.nodes)
    if abs(held - replicas * REPLICA_CPUS) > 1e-6:
        wrong.append(f"placements hold {held:g} CPUs instead of {replicas * REPLICA_CPUS:g}")
    if len(status.routers) != 1:
        wrong.append(f"{len(status.routers)} routers are known instead of 1")
    return "; ".join(wrong)


async def look_for_what_is_left(
    result: Result, cluster: LocalCluster, operator: Operator, deployment: DeploymentStatus
) -> None:
    """Waits until the last of it is gone, and notes what is not."""
    wanted = {cluster.controller_pid, cluster.router_pid, *(one.pid for one in deployment.replicas)}
    try:
        await operator.until(
            lambda status: not _as_it_should_be(status, deployment.num_replicas) and processes_of(cluster) <= wanted,
            timeout_s=60.0,
        )
    except TimeoutError:
        result.left_over.append(_as_it_should_be(await operator.status(), deployment.num_replicas))
    result.left_over += [f"process {pid}" for pid in sorted(processes_of(cluster) - wanted)]
    found = await counters(deployment)
    result.promises = total(found)
    result.left_over += [
        f"{one.reserved} reserved and {one.ongoing} ongoing slots of {replica_id}"
        for replica_id, one in found.items()
        if one.reserved or one.ongoing
    ]
    if not conserved(result.promises):
        result.left_over.append(f"promises that are not accounted for: {result.promises}")


async def wreak(
    *, seconds: float, rate_per_s: float, replicas: int, seed: int, gang: Mapping[str, Any] | None = None
) -> Result:
    """Kills for so many seconds on a cluster of its own, and lets everything settle. ``gang`` is how replicas belong together."""
    result = Result(seed=seed)
    with tempfile.TemporaryDirectory(prefix="serve-core-chaos-") as folder:
        journal = Path(folder) / "journal"
        config = LocalClusterConfig(cpus=CPUS, restart=True, restart_policy=RESTARTS)
        async with LocalCluster(config) as cluster, Operator(cluster.controller_address) as operator:
            spec = steady_spec(
                1,
                journal=str(journal),
                num_replicas=replicas,
                cpus=REPLICA_CPUS,
                max_start_failures=START_FAILURES_MAX,
                gang={"max_restarts": START_FAILURES_MAX, **(gang or {})},
            )
            await operator.until_whole(await operator.deploy(spec))
            load = SteadyLoad(cluster.router_address, rate_per_s=rate_per_s, callers=64, work_s=0.02)
            killer = Killer(cluster, operator, seed=seed)

            async def work() -> DeploymentStatus:
                await load.more(int(rate_per_s))
                await killer.run(seconds)
                ended = time.monotonic()
                deployment = await operator.until_whole(timeout_s=120.0)
                await load.more(int(rate_per_s))
                watching.cancel()
                load.stop()
                result.settled_s = time.monotonic() - ended
                return deployment

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                watching = tasks.create_task(killer.watch())
                working = tasks.create_task(work())
            result.calls, result.kills = len(load.calls), killer.kills
            result.refused = sum(call.refused for call in load.calls)
            sort_failures(result, load.calls)
            result.twice = ran_twice(journal)
            await look_for_what_is_left(result, cluster, operator, working.result())
    return result


def show(result: Result) -> None:
    """Prints what was done and seen."""
    killed = Counter(kill.kind for kill in result.kills)
    print(f"seed {result.seed}: killed " + ", ".join(f"{count} {kind}s" for kind, count in sorted(killed.items())))
    print(f"  {result.calls} calls; failed inside a killed replica: {len(result.inside_replica)}")
    print(f"  failed inside a killed router: {len(result.inside_router)}")
    print(f"  refused, and answered when tried again as the refusal said: {result.refused} tries")
    print(f"  failed otherwise: {len(result.wrong)} (wanted: 0); run twice: {len(result.twice)} (wanted: 0)")
    for call in result.wrong[:10]:
        print(f"    call {call.number}: {call.status} {call.reason} {call.replica_id} {call.details}")
    print(f"  everything was ready {result.settled_s:.1f} s after the last kill")
    print(f"  left over: {'; '.join(result.left_over) or 'nothing'}")
    print(f"  promises of the replicas now there: {result.promises.issued} issued = {result.promises.ended} ended")


@click.command(help=__doc__)
@click.option("--seconds", default=120.0, show_default=True, help="How long; one kill a second.")
@click.option("--rate", default=100.0, show_default=True, help="Calls a second.")
@click.option("--replicas", default=4, show_default=True, help="Replicas wanted.")
@click.option("--seed", default=1, show_default=True, help="Decides who is killed.")
@click.option("--gang", default=1, show_default=True, help="Replicas in each gang.")
@click.option("--repair", is_flag=True, help="Replace lost members of gangs instead of whole gangs.")
def main(seconds: float, rate: float, replicas: int, seed: int, gang: int, *, repair: bool) -> None:
    policy = {"size": gang, "on_member_failure": "RESTART_REPLICA" if repair else "RESTART_GANG"}
    result = asyncio.run(wreak(seconds=seconds, rate_per_s=rate, replicas=replicas, seed=seed, gang=policy))
    show(result)
    sys.exit(0 if result.fine else 1)


if __name__ == "__main__":
    main()
