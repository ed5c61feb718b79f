"""Gangs behind a router, over gRPC as a client in any language sees it: reserved whole, called, and broadcast to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

from router.forward import Router
from router.service import RouterService
from serve_core.errors import (
    ApplicationError,
    ConfigInvalidError,
    GangChangedError,
    MessageTooLargeError,
    NoSlotInTimeError,
    SlotConsumedError,
    SlotUnknownError,
)
from serve_core.model.gang import GangRoute
from serve_core.model.ids import GangToken, RouterId
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.channel import open_channel
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import decode_error
from tests.shell.router.fakes import FakeReplica, gang, running, table, until_connected, until_disconnected

PAYLOAD = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"1")
Stub: TypeAlias = "router_pb2_grpc.RouterServiceAsyncStub"


QUICK_S = 0.5


@pytest.fixture
def queue_timeout_s() -> float:
    """How long calls wait that say nothing of it: long, unless a test is about that."""
    return 30.0


class Entrance:
    """One router process, as its clients reach it."""

    def __init__(self, router: Router, stub: Stub) -> None:
        self.router = router
        self.stub = stub


@asynccontextmanager
async def entrance(
    *replicas: FakeReplica, name: str = "router-1", limit: int = 1 << 20, queue_timeout_s: float = 30.0
) -> AsyncIterator[Entrance]:
    async with Supervisor("test") as tasks:
        router = Router(router_id=RouterId(name), tasks=tasks, max_message_bytes=limit)
        router.apply(table(1, *replicas))
        server = grpc.aio.server()
        service = RouterService(router, tasks, queue_timeout_s=queue_timeout_s)
        router_pb2_grpc.add_RouterServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await until_connected(router, *replicas)
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield Entrance(router, router_pb2_grpc.RouterServiceStub(channel))
        await server.stop(None)
        await router.close()


@pytest.fixture
async def members() -> AsyncIterator[list[FakeReplica]]:
    members = gang("a")
    async with running(*members):
        yield members


@pytest.fixture
async def front(members: list[FakeReplica], queue_timeout_s: float) -> AsyncIterator[Entrance]:
    async with entrance(*members, queue_timeout_s=queue_timeout_s) as front:
        yield front


@pytest.fixture
def stub(front: Entrance) -> Stub:
    return front.stub


def reserve(**fields: int | str) -> router_pb2.ReserveGangRequest:
    return router_pb2.ReserveGangRequest(application="shop", **fields)  # type: ignore[arg-type]


def dispatch(slot_token: str = "") -> router_pb2.RouterServiceDispatchRequest:
    return router_pb2.RouterServiceDispatchRequest(application="shop", arguments=PAYLOAD, slot_token=slot_token)


def broadcast(slot_token: str = "", *, data: bytes = b"1") -> router_pb2.BroadcastRequest:
    payload = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=data)
    return router_pb2.BroadcastRequest(application="shop", method="m", arguments=payload, slot_token=slot_token)


async def error_of(call: Awaitable[object]) -> object:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return decode_error(raised.value)


def held(members: list[FakeReplica]) -> list[int]:
    return [member.load.held for member in members]


async def until_free(members: list[FakeReplica]) -> None:
    for member in members:
        await member.until(lambda member=member: member.load.held == 0)  # type: ignore[misc]


def gated(gate: asyncio.Event) -> Callable[[replica_pb2.DispatchRequest], Awaitable[bytes]]:
    async def work(_: replica_pb2.DispatchRequest) -> bytes:
        await gate.wait()
        return b"2"

    return work


# Reserving.


async def test_a_gang_is_reserved_whole_and_released(stub: Stub, members: list[FakeReplica]) -> None:
    members[1].ttl_s = 3.0
    granted = await stub.ReserveGang(reserve())
    assert [member.gang.rank for member in granted.members] == [0, 1, 2]
    assert [member.address for member in granted.members] == [member.address for member in members]
    token = GangToken.parse(granted.lease.slot_token)
    assert token is not None
    assert [one.replica_id for one in token.members] == [member.name for member in members]
    assert (granted.lease.ttl.seconds, granted.lease.slots, held(members)) == (3, 1, [1, 1, 1])
    release = router_pb2.RouterServiceReleaseSlotRequest(slot_token=granted.lease.slot_token)
    assert (await stub.ReleaseSlot(release)).released
    assert not (await stub.ReleaseSlot(release)).released
    assert held(members) == [0, 0, 0]


async def test_the_same_request_id_gets_the_same_promise(stub: Stub, members: list[FakeReplica]) -> None:
    for member in members:
        member.capacity = 2
        member.set_phase(member.phase)
    first = await stub.ReserveGang(reserve(request_id="x"))
    assert (await stub.ReserveGang(reserve(request_id="x"))).lease.slot_token == first.lease.slot_token
    assert held(members) == [1, 1, 1]


async def test_the_same_request_id_gets_the_same_of_several_gangs_while_that_lives() -> None:
    gangs = [*gang("a", capacity=9), *gang("b", capacity=9), *gang("c", capacity=9)]
    async with running(*gangs), entrance(*gangs) as front:
        first = (await front.stub.ReserveGang(reserve(request_id="x"))).lease.slot_token
        for _ in range(8):
            assert (await front.stub.ReserveGang(reserve(request_id="x"))).lease.slot_token == first
        assert sum(held(gangs)) == 3
        await front.stub.ReleaseSlot(router_pb2.RouterServiceReleaseSlotRequest(slot_token=first))
        assert (await front.stub.ReserveGang(reserve(request_id="x"))).lease.slot_token != first
        assert sum(held(gangs)) == 3


async def test_a_refusal_of_one_member_holds_nothing_and_the_gang_is_had_once_it_is_free(
    stub: Stub, members: list[FakeReplica]
) -> None:
    members[2].take()
    waiting = asyncio.ensure_future(stub.ReserveGang(reserve(), timeout=30))
    await members[2].until(lambda: members[2].refused > 0)
    await until_free(members[:2])
    members[2].free()
    await waiting
    assert held(members) == [1, 1, 1]


async def test_another_gang_is_tried_when_one_refuses() -> None:
    first, second = gang("a"), gang("b")
    async with running(*first, *second), entrance(*first, *second) as front:
        first[1].take()
        granted = await front.stub.ReserveGang(reserve(), timeout=30)
        assert granted.members[0].gang.gang_id == "shop.Model.b"
        assert (held(first), held(second)) == ([0, 1, 0], [1, 1, 1])


@pytest.mark.parametrize("queue_timeout_s", [QUICK_S])
async def test_no_gang_in_time(stub: Stub, members: list[FakeReplica]) -> None:
    members[0].take()
    error = await error_of(stub.ReserveGang(reserve()))
    assert isinstance(error, NoSlotInTimeError)
    # A machine that is busy may let that time pass while the members are asked.
    assert any(why in error.message for why in ("no whole gang", "did not answer a reservation"))
    await until_free(members[1:])


@pytest.mark.parametrize("queue_timeout_s", [QUICK_S])
async def test_a_member_that_answers_too_late_gives_its_promise_back(stub: Stub, members: list[FakeReplica]) -> None:
    members[1].reserve_gate = asyncio.Event()
    assert isinstance(await error_of(stub.ReserveGang(reserve())), NoSlotInTimeError)
    await until_free([members[0], members[2]])
    members[1].reserve_gate.set()
    await members[1].until(lambda: bool(members[1].requests))
    await until_free(members)


async def test_a_caller_that_goes_leaves_nothing_behind(
    front: Entrance, members: list[FakeReplica], monkeypatch: pytest.MonkeyPatch
) -> None:
    members[1].reserve_gate, noticed, reserving = asyncio.Event(), asyncio.Event(), front.router.gangs.reserve

    async def watched(*asked: Any, **options: Any) -> Any:
        try:
            return await reserving(*asked, **options)
        finally:
            noticed.set()

    monkeypatch.setattr(front.router.gangs, "reserve", watched)
    call = front.stub.ReserveGang(reserve(), timeout=30)
    asking = asyncio.ensure_future(error_or_cancelled(call))
    await members[1].until(members[1].changed.is_set)
    await members[0].until(lambda: members[0].load.held == 1)
    call.cancel()
    await asking
    await noticed.wait()
    members[1].reserve_gate.set()
    await members[1].until(lambda: bool(members[1].requests))
    await until_free(members)


async def error_or_cancelled(call: Awaitable[object]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_dead_routers_promises_end_on_every_member(members: list[FakeReplica]) -> None:
    async with entrance(*members) as front:
        await front.stub.ReserveGang(reserve())
        assert held(members) == [1, 1, 1]
    await until_free(members)


async def test_what_no_member_holds_is_the_callers_fault(stub: Stub, members: list[FakeReplica]) -> None:
    assert isinstance(await error_of(stub.ReserveGang(reserve(slots=2))), ConfigInvalidError)


async def test_a_promise_is_renewed_on_every_member_or_given_back(stub: Stub, members: list[FakeReplica]) -> None:
    granted = await stub.ReserveGang(reserve())
    renew = router_pb2.RouterServiceRenewSlotRequest(slot_token=granted.lease.slot_token, detach=True)
    assert (await stub.RenewSlot(renew)).lease.slot_token == granted.lease.slot_token
    assert [len(member.renewed) for member in members] == [1, 1, 1]
    members[2].tokens.clear()
    assert isinstance(await error_of(stub.RenewSlot(renew)), SlotUnknownError)
    await until_free(members)


async def test_two_routers_that_want_the_same_gangs_get_on(members: list[FakeReplica]) -> None:
    """Each of many takes a whole gang, while plain calls come between. Nobody waits for ever, no member is overfilled."""
    chance = random.Random(7)
    replicas = [*members, *gang("b")]
    most: list[int] = []

    async with running(*replicas[3:]), entrance(*replicas) as one, entrance(*replicas, name="router-2") as two:

        async def reserving(stub: Stub) -> None:
            for _ in range(8):
                granted = await stub.ReserveGang(reserve(), timeout=60)
                most.append(max(member.load.held for member in replicas))
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                release = router_pb2.RouterServiceReleaseSlotRequest(slot_token=granted.lease.slot_token)
                await stub.ReleaseSlot(release)

        async def calling(stub: Stub) -> None:
            for _ in range(20):
                await stub.Dispatch(dispatch(), timeout=60)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for front in (one, two):
                for _ in range(4):
                    group.create_task(reserving(front.stub))
                group.create_task(calling(front.stub))
    assert max(most) == 1
    await until_free(replicas)


# Calls.


async def test_a_call_with_a_gangs_token_runs_on_the_leader_while_the_others_hold(
    stub: Stub, members: list[FakeReplica]
) -> None:
    gate = asyncio.Event()
    members[0].work = gated(gate)
    granted = await stub.ReserveGang(reserve())
    for member in members:
        member.ttl_s = 1.0
    call = asyncio.ensure_future(stub.Dispatch(dispatch(granted.lease.slot_token), timeout=30))
    await members[2].until(lambda: len(members[2].renewed) >= 3)
    assert (members[0].ongoing, held(members)) == (1, [1, 1, 1])
    gate.set()
    answer = await call
    assert (answer.replica_id, answer.result.data) == (members[0].name, b"2")
    await until_free(members)
    assert isinstance(await error_of(stub.Dispatch(dispatch(granted.lease.slot_token))), SlotUnknownError)


async def test_a_stream_with_a_gangs_token(stub: Stub, members: list[FakeReplica]) -> None:
    granted = await stub.ReserveGang(reserve())
    call = stub.DispatchStream(timeout=30)
    await call.write(router_pb2.RouterServiceDispatchStreamRequest(open=dispatch(granted.lease.slot_token)))
    await call.done_writing()
    assert [message.item.data async for message in call] == [b"1"]
    assert [len(member.served) for member in members] == [1, 0, 0]
    await until_free(members)


async def test_a_call_that_is_cancelled_gives_the_whole_gang_back(stub: Stub, members: list[FakeReplica]) -> None:
    members[0].work = gated(asyncio.Event())
    granted = await stub.ReserveGang(reserve())
    call = stub.Dispatch(dispatch(granted.lease.slot_token), timeout=30)
    running_call = asyncio.ensure_future(error_or_cancelled(call))
    await members[0].until(lambda: members[0].ongoing == 1)
    call.cancel()
    await running_call
    await until_free(members)


async def test_with_route_leader_plain_calls_go_to_rank_0(front: Entrance, members: list[FakeReplica]) -> None:
    front.router.apply(table(2, *members, gang_route=GangRoute.LEADER))
    for member in members:
        member.capacity = 4
        member.set_phase(member.phase)
    for _ in range(6):
        assert (await front.stub.Dispatch(dispatch())).replica_id == members[0].name
    reserving = router_pb2.RouterServiceReserveSlotRequest(application="shop")
    assert (await front.stub.ReserveSlot(reserving)).replica.gang.rank == 0
    assert len((await front.stub.ReserveGang(reserve())).members) == 3


@pytest.mark.parametrize("queue_timeout_s", [QUICK_S])
async def test_a_gang_that_lost_a_member_gets_nothing(front: Entrance, members: list[FakeReplica]) -> None:
    front.router.apply(table(2, *members[:2]))
    assert isinstance(await error_of(front.stub.Dispatch(dispatch())), NoSlotInTimeError)
    assert isinstance(await error_of(front.stub.ReserveGang(reserve())), NoSlotInTimeError)
    waiting = asyncio.ensure_future(front.stub.ReserveGang(reserve(), timeout=30))
    front.router.apply(table(3, *members))
    await waiting


async def test_a_member_that_was_replaced_voids_the_promise_and_frees_the_others(
    front: Entrance, members: list[FakeReplica]
) -> None:
    granted = await front.stub.ReserveGang(reserve())
    members[1].epoch = 2
    front.router.apply(table(2, *members))
    error = await error_of(front.stub.Dispatch(dispatch(granted.lease.slot_token)))
    assert isinstance(error, GangChangedError)
    assert error.details["replicaIds"] == members[1].name
    assert members[0].served == []
    await until_free([members[0], members[2]])
    assert isinstance(await error_of(front.stub.Broadcast(broadcast(granted.lease.slot_token))), GangChangedError)


async def test_a_new_epoch_of_the_gang_voids_the_promise(front: Entrance, members: list[FakeReplica]) -> None:
    granted = await front.stub.ReserveGang(reserve())
    members[1].gang = gang("a", epoch=2)[1].gang
    front.router.apply(table(2, *members))
    assert isinstance(await error_of(front.stub.Dispatch(dispatch(granted.lease.slot_token))), GangChangedError)
    await until_free(members)


async def test_a_member_whose_promise_is_over_keeps_the_leader_from_running(
    stub: Stub, members: list[FakeReplica]
) -> None:
    granted = await stub.ReserveGang(reserve())
    members[2].tokens.clear()
    assert isinstance(await error_of(stub.Dispatch(dispatch(granted.lease.slot_token))), SlotUnknownError)
    assert members[0].served == []
    await until_free(members)


async def test_a_lost_leader(front: Entrance, members: list[FakeReplica]) -> None:
    granted = await front.stub.ReserveGang(reserve())
    await members[0].stop()
    await until_disconnected(front.router, members[0])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await front.stub.Dispatch(dispatch(granted.lease.slot_token))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await until_free(members[1:])


@pytest.mark.parametrize("mangle", ["subset", "reversed", "twice", "garbage"])
async def test_what_is_no_gangs_token(stub: Stub, members: list[FakeReplica], mangle: str) -> None:
    token = (await stub.ReserveGang(reserve())).lease.slot_token
    parts = token.split(",")
    text = {
        "subset": ",".join(parts[:2]),
        "reversed": ",".join(reversed(parts)),
        "twice": f"{parts[0]},{parts[0]},{parts[1]}",
        "garbage": f"{token},garbage",
    }[mangle]
    assert isinstance(await error_of(stub.Dispatch(dispatch(text))), SlotUnknownError)
    assert isinstance(await error_of(stub.Broadcast(broadcast(text))), SlotUnknownError)
    assert held(members) == [1, 1, 1]


async def test_the_token_of_one_member_is_not_the_gangs(stub: Stub, members: list[FakeReplica]) -> None:
    granted = await stub.ReserveSlot(router_pb2.RouterServiceReserveSlotRequest(application="shop"))
    error = await error_of(stub.Broadcast(broadcast(granted.lease.slot_token)))
    assert isinstance(error, SlotUnknownError)
    assert "not for its 3 members" in error.message


# Broadcasts.


async def test_a_broadcast_reserves_and_calls_every_member(stub: Stub, members: list[FakeReplica]) -> None:
    members[2].work = named(members[2])
    answer = await stub.Broadcast(broadcast())
    assert [(one.rank, one.replica_id) for one in answer.results] == [
        (rank, member.name) for rank, member in enumerate(members)
    ]
    assert [one.result.data for one in answer.results] == [b"1", b"1", members[2].name.encode()]
    assert held(members) == [0, 0, 0]
    assert [member.most_ongoing for member in members] == [1, 1, 1]


def named(member: FakeReplica) -> Callable[[replica_pb2.DispatchRequest], Awaitable[bytes]]:
    async def work(_: replica_pb2.DispatchRequest) -> bytes:
        return member.name.encode()

    return work


async def test_a_broadcast_consumes_every_part_of_a_token(stub: Stub, members: list[FakeReplica]) -> None:
    token = (await stub.ReserveGang(reserve())).lease.slot_token
    assert len((await stub.Broadcast(broadcast(token))).results) == 3
    assert held(members) == [0, 0, 0]
    error = await error_of(stub.Broadcast(broadcast(token)))
    assert isinstance(error, SlotConsumedError | SlotUnknownError)
    assert [len(member.served) for member in members] == [1, 1, 1]


@pytest.mark.parametrize("queue_timeout_s", [QUICK_S])
async def test_nobody_is_called_unless_all_are(stub: Stub, members: list[FakeReplica]) -> None:
    members[2].take()
    assert isinstance(await error_of(stub.Broadcast(broadcast())), NoSlotInTimeError)
    members[2].free()
    token = (await stub.ReserveGang(reserve(), timeout=30)).lease.slot_token
    members[1].tokens.clear()
    assert isinstance(await error_of(stub.Broadcast(broadcast(token))), SlotUnknownError)
    assert [member.served for member in members] == [[], [], []]
    await until_free(members)


async def test_the_failure_of_a_member_is_told_beside_the_results_of_the_others(
    stub: Stub, members: list[FakeReplica]
) -> None:
    members[1].refuses = ApplicationError("cannot", remote_type="app:Sad", replica_id=members[1].name)
    answer = await stub.Broadcast(broadcast())
    assert [one.WhichOneof("outcome") for one in answer.results] == ["result", "failure", "result"]
    failure = answer.results[1].failure
    assert (failure.code, failure.message, failure.reason) == (2, "cannot", "APPLICATION_ERROR")
    assert failure.details["remoteType"] == "app:Sad"
    await until_free([members[0], members[2]])


async def test_a_member_that_dies_is_one_failure(stub: Stub, members: list[FakeReplica]) -> None:
    members[1].work = gated(asyncio.Event())
    waiting = asyncio.ensure_future(stub.Broadcast(broadcast(), timeout=30))
    await members[1].until(lambda: members[1].ongoing == 1)
    await members[1].stop()
    answer = await waiting
    assert answer.results[1].failure.reason == "REPLICA_DIED"
    assert answer.results[2].result.data == b"1"


async def test_a_broadcast_that_is_cancelled_is_cancelled_everywhere(stub: Stub, members: list[FakeReplica]) -> None:
    for member in members:
        member.work = gated(asyncio.Event())
    call = stub.Broadcast(broadcast(), timeout=30)
    waiting = asyncio.ensure_future(error_or_cancelled(call))
    for member in members:
        await member.until(lambda member=member: member.ongoing == 1)  # type: ignore[misc]
    call.cancel()
    await waiting
    await until_free(members)


async def test_the_deadline_of_a_broadcast_reaches_every_member(stub: Stub, members: list[FakeReplica]) -> None:
    for member in members:
        member.work = gated(asyncio.Event())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Broadcast(broadcast(), timeout=0.3)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_free(members)


async def test_answers_that_are_too_large_together(members: list[FakeReplica]) -> None:
    async with entrance(*members, limit=2000) as front:
        error = await error_of(front.stub.Broadcast(broadcast(data=b"1" * 900)))
        assert isinstance(error, MessageTooLargeError)
        token = (await front.stub.ReserveGang(reserve())).lease.slot_token
        assert isinstance(
            await error_of(front.stub.Broadcast(broadcast(token, data=b"1" * 2001))), MessageTooLargeError
        )
        await until_free(members)


async def test_a_gang_that_drains_honours_its_promises(front: Entrance, members: list[FakeReplica]) -> None:
    granted = await front.stub.ReserveGang(reserve())
    for member in members:
        member.set_phase(ReplicaPhase.DRAINING)
    assert len((await front.stub.Broadcast(broadcast(granted.lease.slot_token))).results) == 3


async def test_a_replica_is_a_gang_of_one() -> None:
    single = FakeReplica()
    async with running(single), entrance(single) as front:
        granted = await front.stub.ReserveGang(reserve())
        assert (await front.stub.Dispatch(dispatch(granted.lease.slot_token))).replica_id == single.name
        assert [one.rank for one in (await front.stub.Broadcast(broadcast())).results] == [0]
