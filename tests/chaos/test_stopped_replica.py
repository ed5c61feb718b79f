"""SIGSTOP of a replica: it is noticed and replaced, and SIGCONT makes no second one of it."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest

from bench.operating import processes_of, whole
from serve_core.model.status import ReplicaStatus
from serve_core.runtime import clock
from tests.chaos.stage import SOME_CALLS, Stage, pids

pytestmark = pytest.mark.chaos
HEARTBEAT_S = 0.2


def _of_pid(replicas: tuple[ReplicaStatus, ...], pid: int) -> ReplicaStatus | None:
    return next((one for one in replicas if one.pid == pid), None)


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs. One that has ended may wait for a while for its adoptive parent to take note."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_replica_that_stops_for_a_while_leaves_rotation_and_comes_back(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    before = await stage.serve(
        1, num_replicas=2, heartbeat_period_s=HEARTBEAT_S, suspect_after_missed=3, lost_after_missed=1000
    )
    victim = before.replicas[0].pid
    async with stage.load() as load:
        stopped_at = clock.monotonic()
        os.kill(victim, signal.SIGSTOP)
        suspected = await stage.operator.until_deployment(
            lambda seen: (one := _of_pid(seen.replicas, victim)) is not None and not one.in_rotation
        )
        took_s = clock.monotonic() - stopped_at
        with capsys.disabled():
            sys.stderr.write(
                f"\n  SIGSTOP to out of rotation: {took_s:.2f} s, of {HEARTBEAT_S:g} s for each heartbeat\n"
            )
        await load.more(SOME_CALLS)
        os.kill(victim, signal.SIGCONT)
        after = await stage.operator.until_whole()
        await load.until(lambda calls: any(call.pid == victim for call in calls))

    found = _of_pid(suspected.replicas, victim)
    assert found is not None
    assert found.suspicion
    assert not load.failed, "what was inside while it stood still was answered when it went on"
    assert pids(after) == pids(before)
    assert not stage.ran_twice()


async def test_a_replica_that_stays_stopped_is_replaced_and_does_not_come_back(stage: Stage) -> None:
    before = await stage.serve(
        1, num_replicas=2, heartbeat_period_s=HEARTBEAT_S, suspect_after_missed=3, lost_after_missed=30
    )
    victim = before.replicas[0]
    process = psutil.Process(victim.pid)
    async with stage.load() as load:
        os.kill(victim.pid, signal.SIGSTOP)
        await stage.operator.until_deployment(lambda seen: victim.pid not in pids(seen))
        if is_alive(process):
            process.resume()
        after = await stage.operator.until_whole()
        newcomer = next(iter(pids(after) - pids(before)))
        await load.until(lambda calls: any(call.pid == newcomer for call in calls))

    assert victim.pid not in pids(after)
    assert not is_alive(process)
    assert processes_of(stage.cluster) == {stage.cluster.controller_pid, stage.cluster.router_pid, *pids(after)}
    assert {(call.status, call.reason, call.replica_id) for call in load.failed} <= {
        ("UNAVAILABLE", "REPLICA_DIED", victim.replica.replica_id)
    }
    assert not stage.ran_twice()


async def test_a_replica_that_stopped_is_replaced_by_the_next_controller_too(stage: Stage) -> None:
    before = await stage.serve(
        1, num_replicas=2, heartbeat_period_s=HEARTBEAT_S, suspect_after_missed=3, lost_after_missed=30
    )
    victim = before.replicas[0]
    process = psutil.Process(victim.pid)
    async with stage.load() as load:
        os.kill(victim.pid, signal.SIGSTOP)
        await stage.kill_controller()
        after = await stage.operator.until_deployment(lambda seen: whole(seen) and victim.pid not in pids(seen))
        await load.more(SOME_CALLS)

    assert not is_alive(process)
    assert processes_of(stage.cluster) == {stage.cluster.controller_pid, stage.cluster.router_pid, *pids(after)}
    assert len(pids(after) & pids(before)) == 1, "the other one was not restarted"
    assert {(call.reason, call.replica_id) for call in load.failed} <= {("REPLICA_DIED", victim.replica.replica_id)}
    assert not stage.ran_twice()
