"""The process of an actor that stood still while another life took its place."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serve_core.errors import ActorFencedError, DrainingError
from serve_core.model.actor import ActorAssignment, ActorOnFailure, ActorSpec
from serve_core.model.health import HealthPolicy
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.channel import open_channel
from serve_core.v1 import controller_pb2, replica_pb2_grpc
from serve_core.wire.metadata import INCARNATION_KEY
from tests.shell.replica.support import EPOCH, REPLICA_ID, WAIT_S, controller_of, refused, request, spec_of

pytestmark = pytest.mark.integration

SOURCE = """
class Counter:
    async def save_state(self):
        return b"stale"

    async def restore_state(self, state):
        pass

    async def add(self):
        return 1
"""


async def test_it_takes_no_call_after_standing_still_and_ends_when_it_hears_that_it_was_replaced(
    tmp_path: Path,
) -> None:
    health = HealthPolicy(heartbeat_period_s=0.05, lost_after_missed=60)
    actor = ActorSpec(name="counter", import_path="x:y", on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT)
    spec = replace(spec_of(tmp_path, SOURCE, "Counter"), actors=(actor,), health=health)
    async with controller_of(spec) as (controller, address):
        controller.actor, controller.heartbeat_s = ActorAssignment(name="counter", incarnation=1), 0.05
        flags = ["--controller", address, "--replica-id", REPLICA_ID, "--epoch", str(EPOCH), "--role", "actor"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "replica", *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            report = await controller.phase(ReplicaPhase.READY)
            async with open_channel(report.address) as channel:
                stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
                ours = [(INCARNATION_KEY, f"1@{REPLICA_ID}")]
                await stub.Dispatch(request("add"), timeout=WAIT_S, metadata=ours)
                # The controller has another life by the time that this one goes on.
                controller.acknowledges = False
                controller.refuses_states = ActorFencedError("incarnation 2 has taken its place")
                process.send_signal(signal.SIGSTOP)
                beaten = len(controller.heartbeats)
                # How long it stands still is what this is about.
                await asyncio.sleep(1.5 * health.lost_after_missed * health.heartbeat_period_s)
                process.send_signal(signal.SIGCONT)
                await controller.until(lambda controller: len(controller.heartbeats) > beaten + 1)
                told = await refused(stub.Dispatch(request("add"), timeout=WAIT_S, metadata=ours))
                assert isinstance(told, DrainingError)
                controller.send(snapshot=controller_pb2.SnapshotCommand(request=1))
                assert await process.wait() == 0
                assert controller.states == []
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
