"""The replica's process: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime.channel import open_channel
from serve_core.runtime.process import parse_announcement
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from tests.shell.replica.support import EPOCH, REPLICA_ID, FakeController, controller_of, request, spec_of

pytestmark = pytest.mark.integration

SOURCE = """
import time
class App:
    def block(self):
        time.sleep(3600)
class Hangs:
    def __init__(self):
        time.sleep(3600)
"""


@asynccontextmanager
async def process_of(spec: DeploymentSpec) -> AsyncIterator[tuple[asyncio.subprocess.Process, FakeController]]:
    async with controller_of(spec) as (controller, address):
        flags = ["--controller", address, "--replica-id", REPLICA_ID, "--epoch", str(EPOCH)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "replica",
            *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process, controller
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_it_announces_itself_and_ends_on_a_signal(tmp_path: Path) -> None:
    async with process_of(spec_of(tmp_path, SOURCE)) as (process, controller):
        assert process.stdout is not None
        announced = parse_announcement((await process.stdout.readline()).decode())
        assert announced is not None
        role, fields = announced
        assert (role, fields["pid"]) == ("replica", process.pid)
        report = await controller.phase(ReplicaPhase.READY)
        assert report.address == fields["address"]
        assert controller.hellos[0].pid == process.pid
        process.send_signal(signal.SIGTERM)
        await controller.phase(ReplicaPhase.GONE)
        assert await process.wait() == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with process_of(spec_of(tmp_path, SOURCE)) as (process, controller):
        report = await controller.phase(ReplicaPhase.READY)
        async with open_channel(report.address) as channel:
            stub = replica_pb2_grpc.ReplicaServiceStub(channel)
            call = stub.Dispatch(request("block"))
            watch = stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id="o"))
            await watch.read()
            process.send_signal(signal.SIGTERM)
            await controller.phase(ReplicaPhase.DRAINING)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 70
            call.cancel()
            watch.cancel()


@pytest.mark.parametrize(
    ("target", "reason"), [("Missing", "IMPORT_FAILED"), ("Hangs", "START_TIMED_OUT"), ("no", "IMPORT_FAILED")]
)
async def test_a_failed_start_is_one_line_and_status_1(tmp_path: Path, target: str, reason: str) -> None:
    spec = replace(spec_of(tmp_path, SOURCE, target), start_deadline_s=0.5)
    async with process_of(spec) as (process, controller):
        _, errors = await process.communicate()
        assert process.returncode == 1
        lines = [line for line in errors.decode().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert lines[0].startswith(f"error: {reason}: ")
        failure = controller.reports[-1].failure
        assert failure is not None
        assert failure.reason == reason
