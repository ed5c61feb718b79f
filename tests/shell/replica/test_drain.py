"""A drain: one budget for all of it, counted down where others see it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2, replica_pb2
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import decode_duration, encode_duration
from serve_core.wire.payload import decode_payload
from tests.shell.replica.support import WAIT_S, Running, attached, ready, refused, request, spec_of

SOURCE = """
import asyncio
import threading
import time
import serve_core

class App:
    def __init__(self):
        self.gate = asyncio.Event()
        self.go_on = threading.Event()
        self.ended_after = None

    async def watch(self):
        context = serve_core.get_request_context()
        yield context.draining
        await self.gate.wait()
        yield context.draining

    def watch_in_thread(self):
        yield serve_core.get_request_context().draining
        self.go_on.wait(30)
        yield serve_core.get_request_context().draining

    async def block(self):
        await asyncio.Event().wait()

    async def open(self):
        self.gate.set()
        self.go_on.set()

    async def shutdown(self):
        try:
            await asyncio.Event().wait()
        finally:
            App.cancelled = True
"""


def drain(running: Running, budget_s: float, *, hold: bool = False) -> None:
    running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(budget_s), hold=hold))


async def first_of(running: Running, method: str) -> tuple[Any, Any]:
    call = running.stub.DispatchStream(timeout=WAIT_S)
    await call.write(replica_pb2.DispatchStreamRequest(open=request(method)))
    await call.done_writing()
    return call, decode_value(decode_payload((await call.read()).item))


@pytest.mark.parametrize("method", ["watch", "watch_in_thread"])
async def test_a_long_stream_sees_that_the_replica_drains(tmp_path: Path, method: str) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call, before = await first_of(running, method)
        opens = await running.token()
        assert before is False
        drain(running, WAIT_S)
        await running.controller.phase(ReplicaPhase.DRAINING)
        await running.call("open", token=opens)
        assert decode_value(decode_payload((await call.read()).item)) is True


async def test_the_rest_of_the_budget_is_counted_down(tmp_path: Path) -> None:
    async with attached(spec_of(tmp_path, SOURCE)) as running:
        running.controller.heartbeat_s = 0.02
        await running.controller.phase(ReplicaPhase.READY)
        assert running.controller.reports[-1].drain_remaining_s is None
        await running.controller.until(lambda controller: controller.heartbeats)
        assert not running.controller.heartbeats[-1].HasField("drain_remaining")
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        drain(running, 15.0)
        report = await running.controller.phase(ReplicaPhase.DRAINING)
        assert report.drain_remaining_s is not None
        assert 10 < report.drain_remaining_s <= 15
        seen = len(running.controller.heartbeats)
        await running.controller.until(lambda controller: len(controller.heartbeats) >= seen + 4)
        left = [decode_duration(beat.drain_remaining) for beat in running.controller.heartbeats[seen + 1 :]]
        assert left == sorted(left, reverse=True)
        assert left[-1] < report.drain_remaining_s
        drain(running, 0.0)
        assert (await refused(call)).reason == "REPLICA_DIED"
        assert await running.task == 0


async def test_the_hook_gets_what_is_left_and_no_more(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        started = asyncio.get_running_loop().time()
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        drain(running, 1.0)
        assert (await refused(call)).reason == "REPLICA_DIED"
        cut_off_at = asyncio.get_running_loop().time()
        assert await running.task == 0
        ended_at = asyncio.get_running_loop().time()
        assert cut_off_at - started >= 0.9
        assert ended_at - started >= 1.0


async def test_commands_that_come_again_are_told_of_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        for _ in range(3):
            running.controller.send(disown=controller_pb2.DisownCommand(message="replaced"))
        await running.controller.phase(ReplicaPhase.DRAINING)
        running.controller.send(stop=controller_pb2.StopCommand())
        assert (await refused(call)).reason == "REPLICA_DIED"
        assert await running.task == 0
        draining = [report for report in running.controller.reports if report.phase is ReplicaPhase.DRAINING]
        assert len(draining) <= 2


async def test_a_disowned_replica_refuses_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.Dispatch(request("block"))
        await running.until_load(1, 0)
        running.controller.send(disown=controller_pb2.DisownCommand(message="replaced"))
        await running.controller.phase(ReplicaPhase.DRAINING)
        assert (await refused(running.call("open"))).reason == "DRAINING"
        assert (await running.reserve()).rejection == replica_pb2.REJECTION_REASON_DRAINING
        drain(running, 0.0)
        assert (await refused(call)).reason == "REPLICA_DIED"


QUIET = """
class App:
    async def hello(self):
        return "hello"

    async def shutdown(self):
        open(__file__ + ".shutdown", "w").close()
"""


def shut_down(tmp_path: Path) -> bool:
    return any(tmp_path.glob("*.shutdown"))


async def test_a_member_that_has_drained_waits_for_its_gang(tmp_path: Path) -> None:
    async with ready(tmp_path, QUIET) as running:
        token = await running.token()
        drain(running, WAIT_S, hold=True)
        report = await running.controller.phase(ReplicaPhase.DRAINING)
        assert not report.drained
        assert (await refused(running.stub.Dispatch(request("hello")))).reason == "DRAINING"
        assert await running.call("hello", token=token) == "hello"
        await running.controller.until(lambda controller: controller.reports[-1].drained)
        assert not shut_down(tmp_path)
        assert not running.task.done()
        drain(running, WAIT_S)
        assert await running.task == 0
        assert shut_down(tmp_path)


async def test_a_member_that_nobody_releases_ends_with_its_budget(tmp_path: Path) -> None:
    async with ready(tmp_path, QUIET) as running:
        drain(running, 3.0, hold=True)
        await running.controller.until(lambda controller: controller.reports[-1].drained)
        assert await running.task == 0
        assert shut_down(tmp_path)
