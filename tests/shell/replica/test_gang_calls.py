"""Members of a gang call each other: without slots, and within their gang and its epoch only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serve_core.model.ids import GangId
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2, replica_pb2
from tests.shell.replica.gang_app import (
    NOBODY,
    acts_on,
    address_of,
    app_of,
    calls_of,
    gang_call,
    join,
    leader,
    member,
    roster_of,
    send,
    until_begun,
)
from tests.shell.replica.support import WAIT_S, Running, refused, request


@asynccontextmanager
async def gang_of_two(tmp_path: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Two members; the context of this process is the leader's."""
    spec = app_of(tmp_path)
    async with member(spec, 1) as second, member(spec, 0) as first:
        roster = roster_of(address_of(first), address_of(second))
        for running in (second, first):
            send(running, roster)
            await running.controller.phase(ReplicaPhase.READY)
        yield first, second


async def test_members_call_each_other(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, _):
        assert await first.call("ask", 1, "double", 4) == 8
        assert await first.call("ask_typed") == [8, True]
        assert await first.call("ask_in_thread") == 42
        assert await first.call("ask_to_fail") == "as asked"
        assert 0 < await first.call("ask", 1, "left_s", kwargs={"timeout_s": 5.0}) < 10


async def test_what_goes_wrong_between_members_has_its_type(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, second):
        for rank, method, word in [(1, "no_such", "MethodUnknown"), (7, "double", "ConfigInvalid")]:
            error = await refused(first.stub.Dispatch(request("ask", rank, method)))
            assert word in error.remote_type, error
        timed = await refused(first.stub.Dispatch(request("ask", 1, "wait", kwargs={"timeout_s": 0.1})))
        assert "wait() of rank 1 (decode) did not end within 0.1 s" in timed.message
        begun = await calls_of(second)
        died = first.stub.Dispatch(request("ask", 1, "wait"))
        await until_begun(second, begun + 1)
        second.controller.send(stop=controller_pb2.StopCommand())
        assert "ReplicaDiedError" in (await refused(died)).remote_type
        await second.task
        gone = await refused(first.stub.Dispatch(request("ask", 1, "double", 1, kwargs={"timeout_s": 0.2})))
        assert "ReplicaUnavailableError" in gone.remote_type
        waits = first.stub.Dispatch(request("ask", 1, "double", 1))
        await first.until_load(1, 0)
        send(first, roster_of(address_of(first), NOBODY, epoch=2))
        assert "GangChangedError" in (await refused(waits)).remote_type


async def test_a_call_that_nobody_waits_for_any_more_is_ended_at_the_other_member(tmp_path: Path) -> None:
    async with gang_of_two(tmp_path) as (first, second):
        call = first.stub.Dispatch(request("ask", 1, "wait"))
        await until_begun(second, 1)
        call.cancel()
        await until_begun(second, 1, counted="ended")
        await first.until_load(0, 0)


async def test_calls_of_the_gang_take_no_slot(tmp_path: Path) -> None:
    async with leader(tmp_path, max_ongoing_requests=1) as running:
        held = running.stub.Dispatch(request("wait"))
        await running.until_load(1, 0)
        assert (await refused(running.stub.Dispatch(request("double", 1)))).reason == "NO_SLOT"
        answer = await running.stub.Dispatch(gang_call("triple", [1]))
        assert (answer.load.ongoing, answer.load.capacity) == (1, 1)
        await running.stub.Dispatch(gang_call("open"))
        await held


async def test_calls_of_another_gang_or_epoch_are_refused(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        stranger = running.stub.Dispatch(gang_call("double", 1, gang_id=GangId("app.dep.g2")))
        assert (await refused(stranger)).reason == "GANG_CHANGED"
        early = running.stub.Dispatch(gang_call("double", 1, epoch=2))
        send(running, roster_of(address_of(running), NOBODY, epoch=2))
        assert (await early).load.capacity
        assert (await refused(running.stub.Dispatch(gang_call("double", 1)))).reason == "GANG_CHANGED"
        call = running.stub.DispatchStream(timeout=WAIT_S)
        await call.write(replica_pb2.DispatchStreamRequest(open=gang_call("double", 1)))
        assert (await refused(call.read())).reason == "CONFIG_INVALID"


async def test_a_member_that_is_not_constructed_yet_says_that_nothing_was_run(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY))
        await acts_on(running, 1)
        assert (await refused(running.stub.Dispatch(gang_call("double", 1)))).reason == "REPLICA_UNAVAILABLE"
        await running.stub.JoinBarrier(join(name="init"), timeout=WAIT_S)
