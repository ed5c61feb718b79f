"""Replicas that are stopped, wedged or left alone, as processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import serve_core
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.health import HealthPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ReplicaStatus
from serve_core.runtime.channel import open_channel
from serve_core.v1 import controller_pb2, controller_pb2_grpc, replica_pb2, replica_pb2_grpc, types_pb2
from serve_core.wire.status import decode_cluster_status
from tests.apps.moods import Moody, moody
from tests.shell.replica.support import (
    EPOCH,
    REPLICA_ID,
    WAIT_S,
    FakeController,
    controller_of,
    refused,
    request,
    spec_of,
)

pytestmark = pytest.mark.integration

SOURCE = """
class App:
    async def hello(self):
        return "hello"
"""

ROOT = Path(__file__).parents[2]
PERIOD_S = 0.05
HEALTH = HealthPolicy(heartbeat_period_s=PERIOD_S, suspect_after_missed=2, lost_after_missed=60)
LOST_S = PERIOD_S * HEALTH.lost_after_missed


class Process:
    """A replica's process that takes requests, its controller, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, controller: FakeController, stub: Any) -> None:
        self.process = process
        self.controller = controller
        self.stub = stub

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def hello(self) -> Any:
        return await self.stub.Dispatch(request("hello"), timeout=WAIT_S)

    async def stop_for(self, seconds: float) -> None:
        """Stops it, and sees that no heartbeat comes for that long."""
        self.signal(signal.SIGSTOP)
        while await self._heard_within(seconds):
            pass

    async def _heard_within(self, seconds: float) -> bool:
        seen = len(self.controller.heartbeats)
        try:
            async with asyncio.timeout(seconds):
                await self.controller.until(lambda controller: len(controller.heartbeats) > seen)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def running(tmp_path: Path, *flags: str, health: HealthPolicy = HEALTH) -> AsyncIterator[Process]:
    async with controller_of(spec_of(tmp_path, SOURCE, health=health)) as (controller, address):
        controller.heartbeat_s = PERIOD_S
        identity = ["--controller", address, "--replica-id", REPLICA_ID, "--epoch", str(EPOCH)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "replica", *identity, *flags, stdout=-1, stderr=-1
        )
        try:
            report = await controller.phase(ReplicaPhase.READY)
            async with open_channel(report.address) as channel:
                yield Process(process, controller, replica_pb2_grpc.ReplicaServiceStub(channel))
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_a_stopped_replica_is_silent_and_takes_nothing_until_it_is_heard_again(tmp_path: Path) -> None:
    async with running(tmp_path) as replica:
        watch = replica.stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="router"))
        assert (await watch.read()).phase == types_pb2.REPLICA_PHASE_READY
        held = (await replica.stub.ReserveSlot(replica_pb2.ReserveSlotRequest())).lease.slot_token
        replica.controller.acknowledges = False
        await replica.controller.until(lambda controller: controller.heartbeats)
        before = replica.controller.heartbeats[-1].sequence
        assert replica.controller.heartbeats[-1].unanswered
        await replica.stop_for(1.5 * LOST_S)
        waiting = [asyncio.ensure_future(refused(replica.hello())) for _ in range(3)]
        replica.signal(signal.SIGCONT)
        assert {error.reason for error in await asyncio.gather(*waiting)} == {"DRAINING"}
        answer = await replica.stub.ReserveSlot(replica_pb2.ReserveSlotRequest())
        assert answer.rejection == replica_pb2.REJECTION_REASON_DRAINING
        assert (await watch.read()).phase == types_pb2.REPLICA_PHASE_DRAINING
        # What was promised before is still a promise.
        await replica.stub.Dispatch(request("hello", token=held), timeout=WAIT_S)
        # Nor does it help to hear of a heartbeat from before.
        replica.controller.acknowledge(before)
        seen = len(replica.controller.heartbeats)
        await replica.controller.until(lambda controller: len(controller.heartbeats) > seen)
        assert (await refused(replica.hello())).reason == "DRAINING"
        last = replica.controller.heartbeats[-1]
        assert not last.unanswered
        replica.controller.acknowledge(last.sequence)
        async with asyncio.timeout(WAIT_S):
            while (await watch.read()).phase != types_pb2.REPLICA_PHASE_READY:
                pass
        await replica.hello()
        watch.cancel()


async def test_one_that_was_replaced_while_it_was_stopped_never_serves_again(tmp_path: Path) -> None:
    async with running(tmp_path) as replica:
        replica.controller.acknowledges = False
        await replica.hello()
        await replica.stop_for(1.5 * LOST_S)
        replica.controller.send(disown=controller_pb2.DisownCommand(message="replaced"))
        waiting = [asyncio.ensure_future(replica.hello()) for _ in range(3)]
        replica.signal(signal.SIGCONT)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {grpc.aio.AioRpcError}
        async with asyncio.timeout(WAIT_S):
            assert await replica.process.wait() == 0


async def test_a_short_stop_is_nothing(tmp_path: Path) -> None:
    # Short, even if it takes a while until the signals arrive.
    async with running(tmp_path, health=replace(HEALTH, lost_after_missed=1000)) as replica:
        await replica.hello()
        replica.controller.acknowledges = False
        await replica.stop_for(2 * PERIOD_S)
        replica.signal(signal.SIGCONT)
        await replica.hello()
        assert replica.controller.reports[-1].phase is ReplicaPhase.READY


async def test_it_gives_up_when_its_controller_is_gone_for_good(tmp_path: Path) -> None:
    async with running(tmp_path, "--orphan-timeout-s", "2") as replica:
        replica.controller.acknowledges = False
        async with asyncio.timeout(WAIT_S):
            assert await replica.process.wait() == 0
        assert replica.controller.reports[-1].phase is ReplicaPhase.GONE


@asynccontextmanager
async def moods(folder: Path, **options: Any) -> AsyncIterator[tuple[LocalCluster, serve_core.DeploymentHandle[Moody]]]:
    """A cluster with two replicas of ``Moody``, and a handle."""
    async with LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=20.0)) as cluster:
        app = moody.options(num_replicas=2, working_dir=str(ROOT), **options).bind(str(folder))
        await serve_core.deploy(app, name="moods", controller=cluster.controller_address, timeout_s=100.0)
        try:
            yield cluster, serve_core.get_handle("moods", controller=cluster.controller_address)
        finally:
            await serve_core.close(cluster.controller_address)


async def until(cluster: LocalCluster, holds: Callable[[tuple[ReplicaStatus, ...]], bool]) -> tuple[ReplicaStatus, ...]:
    """The replicas, once something holds of them."""
    request = controller_pb2.WatchStatusRequest()
    async with open_channel(cluster.controller_address) as channel, asyncio.timeout(WAIT_S):
        async for response in controller_pb2_grpc.ControllerServiceStub(channel).WatchStatus(request):
            status = decode_cluster_status(response.status)
            replicas = status.applications[0].deployments[0].replicas
            if holds(replicas):
                return replicas
    raise AssertionError("the stream has ended")


def all_in(replicas: tuple[ReplicaStatus, ...]) -> bool:
    return len(replicas) == 2 and all(one.in_rotation for one in replicas)


def one_out(replicas: tuple[ReplicaStatus, ...]) -> bool:
    return [one.in_rotation for one in replicas].count(False) == 1


async def test_a_replica_that_says_not_ready_leaves_rotation_without_a_restart(tmp_path: Path) -> None:
    # Nothing but what it says takes it out.
    async with moods(tmp_path, suspect_after_missed=100, lost_after_missed=1000) as (cluster, handle):
        before = await until(cluster, all_in)
        sulking = before[0].replica.replica_id
        (tmp_path / sulking).touch()
        out = await until(cluster, one_out)
        assert "is_ready" in next(one.suspicion for one in out if not one.in_rotation)
        assert {await handle.who() for _ in range(20)} == {before[1].replica.replica_id}
        (tmp_path / sulking).unlink()
        after = await until(cluster, all_in)
        assert {(one.pid, one.restarts) for one in after} == {(one.pid, 0) for one in before}


async def test_a_wedged_replica_leaves_rotation_until_it_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    # A machine that is busy lets none of them be silent for three seconds.
    async with moods(tmp_path, suspect_after_missed=30, lost_after_missed=1000) as (cluster, handle):
        before = await until(cluster, all_in)
        async with handle.choose_replica() as selection:
            wedged = asyncio.ensure_future(_result(handle.dispatch(selection).wedge()))
            out = await until(cluster, one_out)
            silent = next(one for one in out if not one.in_rotation)
            assert silent.replica.replica_id == selection.replica.replica_id
            assert "heartbeats" in silent.suspicion
            others = {one.replica.replica_id for one in before} - {selection.replica.replica_id}
            assert {await handle.who() for _ in range(20)} == others
            await asyncio.to_thread((tmp_path / "pipe").write_text, "go on")
            async with asyncio.timeout(WAIT_S):
                assert await wedged == "go on"
        after = await until(cluster, all_in)
        assert {one.pid for one in after} == {one.pid for one in before}


async def _result(call: Any) -> Any:
    return await call
