"""Kills replicas, the router and the controller at random, once a second, under a steady load.

Half of the calls are those of a careful client: it sends again what was cut off with its router, and nothing else. Of these only
what is inside a killed replica may fail, as REPLICA_DIED, and none may run again unless its router was killed with it inside. The
others are those of a plain gRPC client with a retry policy, for requests that may run twice: none may fail, unless each of its five
tries, which gRPC allows at most, was inside something that was killed; and each that ran again must have been inside a router or a
replica that was killed. In the end everything is ready, and nothing is left over. Exits 1 if anything was wrong.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.aftermath import left_over
from bench.journal import Run, read_runs, repeats
from bench.operating import Operator, deployment_of, steady_spec
from bench.steady import TRIES_MAX, Call, Retry, SteadyLoad
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy
from serve_core.model.slots import SlotCounters
from serve_core.model.status import ClusterStatus

KINDS = ("replica", "replica", "router", "controller")
"""What is killed, each as likely."""

CPUS = 4.0
WORK_S = 0.1
"""How long each call works: long enough that some are inside of whatever is killed."""
POLICY_FROM = 1_000_000_000
"""The number of the first call of the client with a retry policy: requests are told apart by their numbers."""
REPLICA_CPUS = 0.1
RESTARTS = RestartPolicy(restarts_max=10_000, backoff=Backoff(initial_s=0.1, factor=1.0, max_s=0.1, jitter=0.0))
"""Of the router and the controller."""

NOTICED_WITHIN_S = 5.0
"""A killed process takes a moment to be gone, and a busy machine lets whoever sends to it see that late: what was sent until then counts
as inside."""

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
class Outcome:
    """What became of the calls of one client.

    Attributes:
        inside_replica: Those that failed inside a killed replica, as they should.
        given_up: Those that gRPC gave up after as many tries as it makes, each inside something that was killed.
        wrong: Those that failed otherwise.
        refused: Tries that were refused before they ran, and were made again as the refusal asked for.
        cut_off: Tries that ended with their router, and were made again by the client itself.
        again: Runs that were not the first, for which a kill accounts.
        twice: The numbers of requests that ran again without that.
    """

    calls: int = 0
    inside_replica: list[Call] = field(default_factory=list)
    given_up: list[Call] = field(default_factory=list)
    wrong: list[Call] = field(default_factory=list)
    refused: int = 0
    cut_off: int = 0
    again: int = 0
    twice: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Result:
    """What was done and seen.

    Attributes:
        careful: The calls of the client that sends again only what was cut off.
        policy: Those of the client with gRPC's retry policy.
        gone: Seconds in which none of the kind that was to be killed was there: killed before, and not back yet.
        left_over: What should not be there in the end, in words.
        promises: How those of the replicas that are there in the end have ended.
        settled_s: From the last kill until everything was ready.
    """

    seed: int
    kills: list[Kill]
    gone: int
    careful: Outcome
    policy: Outcome
    left_over: list[str]
    promises: SlotCounters
    settled_s: float

    @property
    def fine(self) -> bool:
        """Whether all of it was as promised."""
        return not (
            self.careful.wrong
            or self.careful.twice
            or self.policy.wrong
            or self.policy.inside_replica
            or self.policy.twice
            or self.left_over
        )


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
        self.gone = 0

    async def watch(self) -> None:
        """Keeps up with who is there, until cancelled."""
        await self._operator.until(self._seen, timeout_s=float("inf"))

    async def run(self, seconds: float) -> None:
        """Kills once a second."""
        began = time.monotonic()
        for second, kind in enumerate(self._random.choices(KINDS, k=int(seconds)), start=1):
            await asyncio.sleep(max(0.0, began + second - time.monotonic()))
            if not self._kill_one(kind):
                self.gone += 1

    def _seen(self, status: ClusterStatus) -> bool:
        deployment = deployment_of(status)
        if deployment is not None:
            self._replicas = {one.pid: one.replica.replica_id for one in deployment.replicas if one.pid}
        return False

    def _kill_one(self, kind: str) -> bool:
        """Kills one of this kind; False if none is there. Then nothing else is killed in its place: where processes start slowly,
        all of it would hit what would have brought them back."""
        there = {
            "replica": sorted(self._replicas),
            "router": [self._cluster.router_pid],
            "controller": [self._cluster.controller_pid],
        }[kind]
        return any(pid and self._kill(kind, pid) for pid in self._random.sample(there, len(there)))

    def _kill(self, kind: str, pid: int) -> bool:
        kill = Kill(kind=kind, pid=pid, at=time.monotonic(), replica_id=self._replicas.pop(pid, ""))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append(kill)
        return True


def judge(load: SteadyLoad, kills: Sequence[Kill], runs: Mapping[int, list[Run]], *, repeatable: bool) -> Outcome:
    """What became of the calls of a load.

    Args:
        load: Ended.
        kills: Everything that was killed.
        runs: Those of each request, of any load.
        repeatable: Whether the client sends again what was inside a killed replica, too.
    """
    outcome = Outcome(
        calls=len(load.calls),
        refused=sum(call.refused for call in load.calls),
        cut_off=sum(call.cut_off for call in load.calls),
    )
    for call in load.failed:
        if _was_inside(call, kills):
            outcome.inside_replica.append(call)
        elif repeatable and _was_given_up(call, kills):
            outcome.given_up.append(call)
        else:
            outcome.wrong.append(call)
    numbers = {call.number for call in load.calls}
    for number, before, after in repeats(runs):
        if number not in numbers:
            continue
        if _accounts_for(before, after, kills, repeatable=repeatable):
            outcome.again += 1
        else:
            outcome.twice.append(number)
    return outcome


def _was_inside(call: Call, kills: Iterable[Kill]) -> bool:
    """Whether a call failed as it must inside a replica, and that very one was killed while the call was under way."""
    return (call.status, call.reason) == ("UNAVAILABLE", "REPLICA_DIED") and any(
        kill.kind == "replica"
        and kill.replica_id == call.replica_id
        and call.sent_at - NOTICED_WITHIN_S <= kill.at <= call.ended_at
        for kill in kills
    )


def _was_given_up(call: Call, kills: Iterable[Kill]) -> bool:
    """Whether a call was cut off by the kill of a router, and there were enough kills before to account for every other try.

    What the tries before the last were inside of is not on record: one that a replica died with may not have begun to run.
    """
    during = [kill for kill in kills if kill.kind != "controller" and call.sent_at <= kill.at <= call.ended_at]
    return (
        (call.status, call.reason) == ("UNAVAILABLE", "")
        and len(during) >= TRIES_MAX
        and any(kill.kind == "router" and call.ended_at <= kill.at + NOTICED_WITHIN_S for kill in during)
    )


def _accounts_for(before: Run, after: Run, kills: Iterable[Kill], *, repeatable: bool) -> bool:
    """Whether the router, or the replica of the first of two runs, was killed between them."""
    return any(
        (kill.kind == "router" or (repeatable and kill.pid == before.pid))
        and before.at - NOTICED_WITHIN_S <= kill.at <= after.at
        for kill in kills
    )


async def wreak(
    *, seconds: float, rate_per_s: float, replicas: int, seed: int, gang: Mapping[str, Any] | None = None
) -> Result:
    """Kills for so many seconds on a cluster of its own, and lets everything settle. ``gang`` is how replicas belong together."""
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
            careful, policy = (
                SteadyLoad(
                    cluster.router_address,
                    rate_per_s=rate_per_s / 2,
                    callers=32,
                    work_s=WORK_S,
                    retry=retry,
                    first=first,
                )
                for retry, first in ((Retry.CUT_OFF, 0), (Retry.UNAVAILABLE, POLICY_FROM))
            )
            killer = Killer(cluster, operator, seed=seed)

            async def a_second() -> None:
                await asyncio.gather(*(load.more(int(load.rate_per_s)) for load in (careful, policy)))

            async def work() -> float:
                await a_second()
                await killer.run(seconds)
                ended = time.monotonic()
                await operator.until_whole(timeout_s=120.0)
                settled_s = time.monotonic() - ended
                await a_second()
                watching.cancel()
                careful.stop()
                policy.stop()
                return settled_s

            async with asyncio.TaskGroup() as tasks:
                for load in (careful, policy):
                    tasks.create_task(load.run())
                watching = tasks.create_task(killer.watch())
                working = tasks.create_task(work())
            runs = read_runs(journal)
            left, promises = await left_over(cluster, operator, replica_cpus=REPLICA_CPUS)
            return Result(
                seed=seed,
                kills=killer.kills,
                gone=killer.gone,
                careful=judge(careful, killer.kills, runs, repeatable=False),
                policy=judge(policy, killer.kills, runs, repeatable=True),
                left_over=left,
                promises=promises,
                settled_s=working.result(),
            )


def show(result: Result) -> None:
    """Prints what was done and seen."""
    killed = Counter(kill.kind for kill in result.kills)
    print(f"seed {result.seed}: killed " + ", ".join(f"{count} {kind}s" for kind, count in sorted(killed.items())))
    print(f"  seconds in which what was to be killed was not back yet: {result.gone}")
    careful, policy = result.careful, result.policy
    print(f"  a careful client: {careful.calls} calls, {careful.cut_off} cut off with their router and sent again")
    print(f"    failed inside a killed replica, as REPLICA_DIED: {len(careful.inside_replica)}")
    _show_rest(careful, wrong=careful.wrong)
    print(f"  a plain gRPC client with a retry policy: {policy.calls} calls")
    print(f"    given up by gRPC, each of {TRIES_MAX} tries inside a killed process: {len(policy.given_up)}")
    _show_rest(policy, wrong=[*policy.wrong, *policy.inside_replica])
    print(f"  everything was ready {result.settled_s:.1f} s after the last kill")
    print(f"  left over: {'; '.join(result.left_over) or 'nothing'}")
    print(f"  promises of the replicas now there: {result.promises.issued} issued = {result.promises.ended} ended")


def _show_rest(outcome: Outcome, *, wrong: Sequence[Call]) -> None:
    print(f"    failed otherwise: {len(wrong)} (wanted: 0)")
    for call in wrong[:10]:
        print(f"      call {call.number}: {call.status} {call.reason} {call.replica_id} {call.details}")
    print(f"    ran again after a kill: {outcome.again}; without one: {len(outcome.twice)} (wanted: 0)")
    print(f"    refused, and answered when tried again as the refusal said: {outcome.refused} tries")


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
