"""Deployment actors of real processes: killed, stopped, and left without a controller while they are called."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from serve_core import DeploymentActor
from serve_core.client import ControllerClient
from serve_core.errors import ApplicationError
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ActorStatus, DeploymentState
from serve_core.runtime.channel import open_channel
from serve_core.v1 import controller_pb2 as pb
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from serve_core.wire.metadata import INCARNATION_KEY
from tests.apps.actors import Tally
from tests.apps.gate import Gate
from tests.integration.actor_stage import KEY, PATIENCE_S, ActorStage, actor_of, is_running, load, pids_of, tally
from tests.shell.replica.support import refused, request

pytestmark = pytest.mark.integration


async def counted(stage: ActorStage, number: int) -> None:
    """Has the actor count to ``number`` from 0."""
    for _ in range(number):
        await stage.handle.add()


async def test_actors_are_there_before_replicas_which_share_them() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(env={"WHO": "actor"}), num_replicas=3, env={"WHO": "replica", "WHERE": "everywhere"})
        numbers = await asyncio.gather(*(stage.handle.add() for _ in range(60)))
        assert sorted(numbers) == list(range(1, 61))
        deployment = await stage.until(lambda status: status.ready_replicas == 3)
        (actor,) = deployment.actors
        assert actor.replica is not None
        born = {one.pid: one.create_time for one in deployment.replicas}
        assert psutil.Process(actor.pid).create_time() < min(psutil.Process(pid).create_time() for pid in born)
        assert (await stage.handle.me())["restarts"] == []
        found = [psutil.Process(pid).environ() for pid in (actor.pid, *born)]
        assert [(one["WHO"], one["WHERE"]) for one in found] == [
            ("actor", "everywhere"),
            *[("replica", "everywhere")] * 3,
        ]


async def test_a_killed_actor_begins_from_its_snapshot_and_everybody_follows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        await counted(stage, 10)
        await stage.snapshot()
        async with load(stage) as calls:
            first = await stage.handle.actor()
            began = time.monotonic()
            os.kill(first["pid"], signal.SIGKILL)
            second = await stage.handle.actor()
            took_s = time.monotonic() - began
        assert calls.failed == []
        assert (second["incarnation"], second["restored"]) == (2, True)
        total = await stage.handle.get()
        with capsys.disabled():
            print(
                f"\nkill -9 of an actor: {took_s:.2f} s to incarnation 2, {calls.answered} calls, 0 failed, the longest took "
                f"{calls.longest_s:.2f} s"
            )
        assert total > 10
        deployment = await stage.until(lambda status: status.state is DeploymentState.HEALTHY)
        actor = actor_of(deployment)
        assert (actor.incarnation, actor.restarts) == (2, 1)
        assert actor.failure is not None
        assert "signal 9" in actor.failure.message
        told = {tuple((await stage.handle.me())["restarts"]) for _ in range(20)}
        assert told == {(2,)}
        reasons = {event.reason for event in await events(stage)}
        assert {"ActorCreated", "ActorStarted", "ActorLost", "ActorRestarted"} <= reasons


async def events(stage: ActorStage) -> list[pb.Event]:
    async with ControllerClient(stage.address) as client:
        return [event async for event in client.events(KEY.application)]


async def test_what_was_acknowledged_is_not_lost_and_of_the_rest_at_most_an_interval() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(snapshot_interval_s=0.1))
        await counted(stage, 7)
        await stage.snapshot()
        actor = actor_of(await stage.until(lambda status: actor_of(status).snapshot_bytes))
        os.kill(actor.pid, signal.SIGKILL)
        assert await stage.handle.get() == 7
        await stage.serving(2)
        await counted(stage, 5)
        newer = await stored_after(stage, 0.0)
        # The next one may have begun while it still counted; the one after that has not.
        for _ in range(2):
            newer = await stored_after(stage, newer.snapshot_time or 0.0)
        os.kill(newer.pid, signal.SIGKILL)
        assert await stage.handle.get() == 12


async def stored_after(stage: ActorStage, snapshot_time: float) -> ActorStatus:
    """Waits until a newer snapshot than that one is stored."""
    return actor_of(await stage.until(lambda status: (actor_of(status).snapshot_time or 0.0) > snapshot_time))


async def test_an_actor_that_begins_empty_says_so(tmp_path: Path) -> None:
    with Gate(tmp_path / "start") as start:
        async with ActorStage() as stage:
            start.let_through(1)
            await stage.deploy(tally(on_failure="RESTART", start_gate=start.path))
            await counted(stage, 3)
            actor = await stage.serving(1)
            os.kill(actor.pid, signal.SIGKILL)
            lost = await stage.until(lambda status: status.state is DeploymentState.DEGRADED)
            start.open()
            assert "incarnation 1 of actor tally has ended" in lost.message
            assert "incarnation 2 begins empty" in lost.message
            assert await stage.handle.get() == 0
            assert (await stage.handle.actor())["restored"] is False


async def test_an_actor_that_stands_still_is_replaced_and_its_stale_life_is_refused() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(lost_after_missed=25))
        await counted(stage, 4)
        await stage.snapshot()
        first = await stage.serving(1)
        async with load(stage) as calls:
            os.kill(first.pid, signal.SIGSTOP)
            second = await stage.serving(2)
        assert calls.failed == []
        assert not is_running(first.pid)
        assert await stage.handle.get() > 4
        assert second.replica is not None
        async with open_channel(second.replica.address) as channel:
            stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
            error = await refused(stub.Dispatch(request("add"), timeout=PATIENCE_S, metadata=[(INCARNATION_KEY, "1")]))
            assert error.reason == "ACTOR_FENCED"
            told = await stub.GetReplica(replica_pb2.GetReplicaRequest(), timeout=PATIENCE_S)
            assert told.replica.replica_id == second.replica.replica_id


async def test_an_actor_that_says_that_it_is_ill_is_replaced() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(health_check_period_s=0.1, health_check_failure_threshold=1))
        await counted(stage, 3)
        await stage.handle.sicken()
        actor = await stage.serving(2)
        assert actor.failure is not None
        assert "check_health() 1 times in a row raised as asked" in actor.failure.message
        # It drained, so nothing was lost, though nobody had asked for a snapshot.
        assert await stage.handle.get() == 3


async def test_a_short_pause_costs_no_state_and_no_call() -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        await counted(stage, 4)
        actor = await stage.serving(1)
        async with load(stage) as calls:
            os.kill(actor.pid, signal.SIGSTOP)
            await stage.until(lambda status: status.ready_replicas == 2)
            os.kill(actor.pid, signal.SIGCONT)
        assert calls.failed == []
        assert (await stage.serving(1)).pid == actor.pid
        assert await stage.handle.get() == 4 + calls.answered


async def test_a_call_says_in_time_that_the_actor_is_away() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(max_restarts=0))
        actor = await stage.serving(1)
        os.kill(actor.pid, signal.SIGKILL)
        given_up = await stage.until(lambda status: "max_restarts = 0" in status.message)
        assert given_up.ready_replicas == 2
        with pytest.raises(ApplicationError, match=r"actor tally was given up: .*signal 9") as caught:
            await stage.handle.get(timeout_s=PATIENCE_S)
        assert caught.value.remote_type.endswith("ActorUnavailableError")
        assert caught.value.details["actor"] == "tally"


async def test_state_and_handles_survive_the_controller() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(on_failure="RESTART"))
        await counted(stage, 6)
        before = await stage.serving(1)
        async with load(stage) as calls:
            await stage.replace_controller()
            await stage.until(lambda status: status.state is DeploymentState.HEALTHY)
        assert calls.failed == []
        after = await stage.serving(1)
        assert after.pid == before.pid
        assert await stage.handle.get() == 6 + calls.answered
        assert (await stage.handle.me())["restarts"] == []


async def test_state_survives_a_controller_that_can_no_longer_write_its_records() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(on_failure="RESTART"))
        await counted(stage, 6)
        before = await stage.serving(1)
        deployment = await stage.until(lambda status: status.ready_replicas == 2)
        controller = stage.cluster.controller_pid
        refuse_growth(controller, stage.cluster.state_dir / "store.db-wal")
        os.kill(deployment.replicas[0].pid, signal.SIGKILL)  # which is to be recorded
        async with asyncio.timeout(PATIENCE_S):
            await stage.cluster.controller_back()
        assert stage.cluster.controller_pid != controller
        lines = (stage.cluster.state_dir / "controller.log").read_text().splitlines()
        assert [line for line in lines if line.startswith("error: STORE_UNUSABLE: ")]
        await stage.until(lambda status: status.state is DeploymentState.HEALTHY and status.ready_replicas == 2)
        after = await stage.serving(1)
        assert (after.pid, after.restarts) == (before.pid, 0)
        assert await stage.handle.add() == 7


def refuse_growth(pid: int, file: Path) -> None:
    """From now on this process writes to no file what lies beyond the present end of this one, as on a full disk."""
    _, most = psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE)
    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (file.stat().st_size, most))


async def test_an_actor_that_is_killed_with_the_controller_is_recreated_and_the_others_are_kept() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(), DeploymentActor("tree", Tally))
        await counted(stage, 5)
        await stage.snapshot()
        before = await stage.until(lambda status: len(status.actors) == 2)
        pids = {one.name: one.pid for one in before.actors}
        replicas = {one.pid for one in before.replicas}
        await stage.replace_controller(pids["tally"])
        after = await stage.until(
            lambda status: (
                status.state is DeploymentState.HEALTHY
                and {one.incarnation for one in status.actors if one.name == "tally"} == {2}
            )
        )
        assert {one.name: one.incarnation for one in after.actors} == {"tally": 2, "tree": 1}
        assert {one.pid for one in after.actors if one.name == "tree"} == {pids["tree"]}
        assert {one.pid for one in after.replicas} == replicas
        assert await stage.handle.get() == 5


async def test_nothing_is_left_of_what_is_deleted_also_when_it_was_just_deployed(tmp_path: Path) -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        await counted(stage, 2)
        deployment = await stage.until(lambda status: len(status.replicas) == 2)
        pids = set(pids_of(deployment).values())
        with Gate(tmp_path / "start") as start:
            await stage.deploy(tally(2, start_gate=start.path), version=2, wait=False)
            began = await stage.until(lambda status: len(status.actors) == 2 and all(one.pid for one in status.actors))
        pids |= set(pids_of(began).values())
        await stage.deleted()
        assert [pid for pid in pids if is_running(pid)] == []
        await stage.deploy()
        assert await stage.handle.get() == 0
        assert (await stage.serving(1)).phase is ReplicaPhase.READY


async def test_an_actor_outlives_the_replicas_that_it_serves() -> None:
    async with ActorStage() as stage:
        await stage.deploy(graceful_shutdown_timeout_s=15.0)
        await counted(stage, 3)
        async with ControllerClient(stage.address) as client:
            await client.scale(*KEY, 0)
        await stage.until(lambda status: not status.replicas)
        async with ControllerClient(stage.address) as client:
            await client.scale(*KEY, 2)
        await stage.until(lambda status: status.ready_replicas == 2)
        assert await stage.handle.get() == 3
        assert (await stage.serving(1)).restarts == 0


async def test_the_members_of_gangs_have_actors_too_and_are_told_of_new_lives() -> None:
    async with ActorStage() as stage:
        await stage.deploy(num_replicas=4, gang={"size": 2})
        assert sorted(await asyncio.gather(*(stage.handle.add() for _ in range(20)))) == list(range(1, 21))
        await stage.snapshot()
        os.kill((await stage.handle.actor())["pid"], signal.SIGKILL)
        await stage.serving(2)
        deployment = await stage.until(lambda status: status.state is DeploymentState.HEALTHY)
        seen: dict[int, list[int]] = {}
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < 4 or any(told != [2] for told in seen.values()):
                one = await stage.handle.me()
                seen[one["pid"]] = one["restarts"]
        assert set(seen) == {one.pid for one in deployment.replicas}
        assert await stage.handle.get() == 20
