"""Gangs as Python callers use them: chosen, dispatched to, broadcast to, and passed on as tickets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from router.embedded import EmbeddedRouter
from router.selection import Ticket
from serve_core.errors import (
    ApplicationError,
    GangChangedError,
    NoSlotInTimeError,
    SlotConsumedError,
    SlotUnknownError,
)
from serve_core.handle import DeploymentHandle
from serve_core.v1 import replica_pb2
from tests.more_time import TIMES_S
from tests.shell.router.fakes import FakeController, FakeReplica, gang, running


@dataclass
class Shard:
    rank: int


class Model:
    async def load(self, path: str) -> Shard:
        raise AssertionError(path)


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    controller = FakeController()  # type: ignore[abstract]
    async with running(controller):
        yield controller


@pytest.fixture
async def members(controller: FakeController) -> AsyncIterator[list[FakeReplica]]:
    members = gang("a")
    for member in members:
        member.work = ranked(member)
    async with running(*members):
        controller.publish(*members)
        yield members


@pytest.fixture
async def router(controller: FakeController, members: list[FakeReplica]) -> AsyncIterator[EmbeddedRouter]:
    router = EmbeddedRouter(controller.address)
    await router.start()
    yield router
    await router.close()


@pytest.fixture
def handle(router: EmbeddedRouter) -> DeploymentHandle[Model]:
    return handle_to(router)


def handle_to(router: EmbeddedRouter) -> DeploymentHandle[Model]:
    async def connect() -> EmbeddedRouter:
        return router

    return DeploymentHandle("shop", connect=connect, target=Model).options(timeout_s=30)


def ranked(member: FakeReplica) -> Any:
    async def work(_: replica_pb2.DispatchRequest) -> bytes:
        return b'{"rank": %d}' % member.gang.rank

    return work


def held(members: list[FakeReplica]) -> list[int]:
    return [member.load.held for member in members]


async def until_free(members: list[FakeReplica]) -> None:
    for member in members:
        await member.until(lambda member=member: member.load.held == 0)  # type: ignore[misc]


async def test_a_broadcast_gives_typed_results_by_rank(
    handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    answers = await handle.load.broadcast("weights")
    assert [answer.result() for answer in answers] == [Shard(0), Shard(1), Shard(2)]
    assert [(answer.rank, answer.replica.replica_id) for answer in answers] == [
        (rank, member.name) for rank, member in enumerate(members)
    ]
    assert held(members) == [0, 0, 0]


async def test_the_failure_of_a_member_is_its_own(handle: DeploymentHandle[Model], members: list[FakeReplica]) -> None:
    members[1].refuses = ApplicationError("cannot")
    answers = await handle.load.broadcast("weights")
    assert answers[2].result() == Shard(2)
    with pytest.raises(ApplicationError, match="cannot"):
        answers[1].result()


async def test_members_that_do_not_end_in_time_are_told_apart(
    handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    async def never(_: replica_pb2.DispatchRequest) -> bytes:
        await asyncio.Event().wait()
        return b""

    members[2].work = never
    for timeout_s in TIMES_S:
        with contextlib.suppress(NoSlotInTimeError):
            answers = await handle.options(timeout_s=timeout_s).load.broadcast("weights")
            if answers[0].error is None:
                break
    assert answers[0].result() == Shard(0)
    with pytest.raises(TimeoutError):
        answers[2].result()
    await until_free(members)


async def test_no_gang_in_time(handle: DeploymentHandle[Model], members: list[FakeReplica]) -> None:
    members[1].take()
    # A machine that is busy may let that time pass while the members are asked.
    with pytest.raises(NoSlotInTimeError, match=r"no whole gang|did not answer a reservation"):
        await handle.options(timeout_s=1.0).load.broadcast("weights")


async def test_a_chosen_gang_shows_its_members(handle: DeploymentHandle[Model], members: list[FakeReplica]) -> None:
    async with handle.choose_gang(timeout_s=30) as chosen:
        assert [member.address for member in chosen.members] == [member.address for member in members]
        assert (chosen.gang_id, chosen.size, chosen.epoch) == ("shop.Model.a", 3, 1)
        assert chosen.leader.replica_id == members[0].name
        assert held(members) == [1, 1, 1]
    assert held(members) == [0, 0, 0]


async def test_a_chosen_gang_is_dispatched_to_its_leader(
    handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    async with handle.choose_gang() as chosen:
        assert await chosen.dispatch("load", "weights") == Shard(0)
        with pytest.raises(SlotConsumedError):
            await chosen.dispatch("load", "weights")
    async with handle.choose_gang() as chosen:
        assert await handle.dispatch(chosen).load("weights") == Shard(0)
    assert [len(member.served) for member in members] == [2, 0, 0]
    await until_free(members)


async def test_a_chosen_gang_is_broadcast_to(handle: DeploymentHandle[Model], members: list[FakeReplica]) -> None:
    async with handle.choose_gang() as chosen:
        assert len(await chosen.broadcast("load", "weights")) == 3
        with pytest.raises(SlotConsumedError):
            await chosen.broadcast("load", "weights")
    assert held(members) == [0, 0, 0]


async def test_one_replica_is_no_gang_to_broadcast_to(
    handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    async with handle.choose_replica() as selection:
        with pytest.raises(SlotUnknownError, match="chosen alone"):
            await handle.dispatch(selection).load.broadcast("weights")
    assert held(members) == [0, 0, 0]


async def test_the_lease_is_renewed_on_every_member(
    handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    for member in members:
        member.ttl_s = 0.05
    async with handle.choose_gang() as chosen:
        for member in members:
            await member.until(lambda member=member: len(member.renewed) >= 2)  # type: ignore[misc]
        assert await chosen.dispatch("load", "weights") == Shard(0)


async def test_a_ticket_of_a_gang_is_used_by_another_process(
    controller: FakeController,
    handle: DeploymentHandle[Model],
    router: EmbeddedRouter,
    members: list[FakeReplica],
) -> None:
    texts = []
    for member in members:
        member.capacity = 2
        member.set_phase(member.phase)
    for _ in range(2):
        async with handle.choose_gang() as chosen:
            texts.append(str(await chosen.ticket()))
            with pytest.raises(SlotConsumedError, match="turned into a ticket"):
                await chosen.ticket()
    await router.close()
    await members[0].until(lambda: members[0].watchers == 0)
    assert held(members) == [2, 2, 2]
    other = EmbeddedRouter(controller.address)
    await other.start()
    elsewhere = handle_to(other)
    ticket = Ticket.parse(texts[0])
    assert (ticket.replica_id, ticket.address) == (members[0].name, members[0].address)
    assert await elsewhere.dispatch(ticket).load("weights") == Shard(0)
    answers = await elsewhere.dispatch(texts[1]).load.broadcast("weights")
    assert [answer.result() for answer in answers] == [Shard(0), Shard(1), Shard(2)]
    await until_free(members)
    await other.close()


async def test_a_gang_that_changed_meanwhile(
    controller: FakeController, handle: DeploymentHandle[Model], members: list[FakeReplica]
) -> None:
    async with handle.choose_gang() as chosen:
        members[1].epoch = 2
        controller.publish(*members)
        await controller.until_acknowledged(2)
        with pytest.raises(GangChangedError):
            await chosen.dispatch("load", "weights")
    await until_free([members[0], members[2]])


async def test_what_was_never_awaited_says_so(handle: DeploymentHandle[Model]) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        handle.load.broadcast("weights")
    broadcast = handle.load.broadcast("weights")
    await broadcast
    with pytest.raises(RuntimeError, match="awaited before"):
        await broadcast
