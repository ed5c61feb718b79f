"""Members of a gang meet at barriers: while they start, from anywhere, and though their leader is away or replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from replica import peers
from serve_core.errors import ConstructorFailedError
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.server import Server
from serve_core.v1 import replica_pb2
from tests.shell.replica.gang_app import NOBODY, address_of, app_of, join, leader, member, roster_of, send
from tests.shell.replica.support import WAIT_S, refused, request


async def test_members_meet_while_they_are_constructed(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY))
        answer = await running.stub.JoinBarrier(join(name="init"), timeout=WAIT_S)
        assert not answer.missing_ranks
        await running.controller.phase(ReplicaPhase.READY)


async def test_a_constructor_that_waits_in_vain_says_for_whom(tmp_path: Path) -> None:
    async with member(app_of(tmp_path, "Meets"), 0) as running:
        send(running, roster_of(address_of(running), NOBODY, epoch=9))
        with pytest.raises(
            ConstructorFailedError, match=r"barrier 'init'.*rank 1 \(decode\) had not come after 0\.2 s"
        ):
            await running.task


@pytest.mark.parametrize("method", ["meet", "meet_in_thread", "meet_in_another_loop"])
async def test_members_meet_again_and_again_from_anywhere(tmp_path: Path, method: str) -> None:
    async with leader(tmp_path) as running:
        for number in range(3):
            meeting = asyncio.ensure_future(running.call(method, "step", WAIT_S))
            answer = await running.stub.JoinBarrier(join(name="step", round=number), timeout=WAIT_S)
            assert not answer.missing_ranks
            await meeting


async def test_a_barrier_that_would_stop_the_event_loop_is_refused(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        error = await refused(running.stub.Dispatch(request("meet_wrongly")))
        assert "would block an event loop: await barrier() there" in error.message


async def test_who_comes_first_is_told_who_is_missing(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        answer = await running.stub.JoinBarrier(join(timeout_s=0.05), timeout=WAIT_S)
        assert list(answer.missing_ranks) == [0]


async def test_a_change_of_the_gang_ends_the_waits_at_its_barriers(tmp_path: Path) -> None:
    async with leader(tmp_path) as running:
        await running.call("open")
        remote = running.stub.JoinBarrier(join(name="a"), timeout=WAIT_S)
        local = running.stub.Dispatch(request("meet", "b", WAIT_S))
        await running.until_load(1, 0)
        send(running, roster_of(address_of(running), NOBODY, epoch=2))
        assert (await refused(remote)).reason == "GANG_CHANGED"
        assert "a member of the gang was replaced" in (await refused(local)).message
        late = running.stub.JoinBarrier(join(name="a"), timeout=WAIT_S)
        assert (await refused(late)).reason == "GANG_CHANGED"
        other = join(name="a", epoch=2)
        other.gang_id = "app.dep.g2"
        assert (await refused(running.stub.JoinBarrier(other, timeout=WAIT_S))).reason == "GANG_CHANGED"
        absurd = running.stub.JoinBarrier(join(rank=2, epoch=2), timeout=WAIT_S)
        assert (await refused(absurd)).reason == "CONFIG_INVALID"


Answer = Callable[[Any, Any], Awaitable[Any]]


@asynccontextmanager
async def leader_that(answer: Answer, port: int = 0) -> AsyncIterator[str]:
    """A leader of which this test decides how it answers at barriers."""
    server = Server("127.0.0.1", port)
    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=replica_pb2.JoinBarrierRequest.FromString,
        response_serializer=replica_pb2.JoinBarrierResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("serve_core.v1.ReplicaService", {"JoinBarrier": handler})
    server.add_generic_handlers([service])
    try:
        yield await server.start()
    finally:
        await server.stop(0)


async def test_a_lost_connection_to_the_leader_is_made_again_for_the_same_round(tmp_path: Path) -> None:
    seen: list[Any] = []

    async def answer(asked: Any, context: Any) -> Any:
        seen.append(asked)
        if len(seen) % 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is lost")
        return replica_pb2.JoinBarrierResponse()

    async with member(app_of(tmp_path), 1) as running, leader_that(answer) as address:
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        await running.call("meet", "step", WAIT_S)
        await running.call("meet", "step", WAIT_S)
        assert [(asked.gang_epoch, asked.rank, asked.name, asked.round) for asked in seen] == [
            (1, 1, "step", 0),
            (1, 1, "step", 0),
            (1, 1, "step", 1),
            (1, 1, "step", 1),
        ]


async def test_a_member_waits_for_a_leader_that_is_away_and_not_longer_than_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ANSWER_GRACE_S", 0.05)

    async def answer(asked: Any, context: Any) -> Any:
        del asked, context
        return replica_pb2.JoinBarrierResponse()

    async with member(app_of(tmp_path), 1) as running:
        async with leader_that(answer) as address:
            pass
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        error = await refused(running.stub.Dispatch(request("meet", "step", 0.0)))
        assert "rank 0 (prefill) had not come" in error.message
        meeting = asyncio.ensure_future(running.call("meet", "step", WAIT_S))
        await running.until_load(1, 0)
        async with leader_that(answer, int(address.rpartition(":")[2])):
            await meeting


async def test_a_member_that_waits_at_a_leader_that_is_replaced_is_told(tmp_path: Path) -> None:
    waiting = asyncio.Event()

    async def answer(asked: Any, context: Any) -> Any:
        del asked, context
        waiting.set()
        await asyncio.Event().wait()

    async with member(app_of(tmp_path), 1) as running, leader_that(answer) as address:
        send(running, roster_of(address, address_of(running)))
        await running.controller.phase(ReplicaPhase.READY)
        call = running.stub.Dispatch(request("meet", "step", WAIT_S))
        await waiting.wait()
        send(running, roster_of(NOBODY, address_of(running), epoch=2))
        assert "was replaced" in (await refused(call)).message
