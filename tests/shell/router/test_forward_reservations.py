"""Slots that a router reserves: dispatched, released, fenced, and given back."""

from __future__ import annotations

import asyncio

import pytest

from router.calls import Calls
from router.forward import Router
from serve_core.errors import NoSlotInTimeError, SlotUnknownError
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected
from tests.shell.router.forwarding import ENDLESS, request, settled


async def test_a_token_from_another_router_is_good_at_a_replica_that_left_and_drains(
    router: Router, tasks: Supervisor
) -> None:
    leaving, staying = FakeReplica("shop.Model.a-0"), FakeReplica("shop.Model.b-0")
    other = Router(router_id=RouterId("other"), tasks=tasks)
    async with running(leaving, staying):
        other.apply(table(1, leaving))
        router.apply(table(1, leaving))
        promised = await other.reserve(KEY, deadline=None)
        await until_connected(router, leaving)
        router.apply(table(2, staying))
        leaving.set_phase(ReplicaPhase.DRAINING)
        await until_connected(router, staying)
        await settled()
        with_token = request("with token")
        with_token.slot_token = str(promised.lease.token)
        assert (await Calls(router, tasks).unary(KEY, with_token, ENDLESS))[1] == leaving.name
        leaving.set_phase(ReplicaPhase.DRAINING)
        await leaving.until(lambda: leaving.watchers == 1)
        await other.close()


async def test_reservations_are_made_dispatched_and_released(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=2)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        used = await router.reserve(KEY, deadline=None)
        unused = await router.reserve(KEY, deadline=None)
        assert replica.load.reserved == 2
        soon = monotonic() + 0.05
        with pytest.raises(NoSlotInTimeError):
            await router.reserve(KEY, deadline=soon)
        with_token = request("with token")
        with_token.slot_token = str(used.lease.token)
        assert (await calls.unary(KEY, with_token, ENDLESS))[1] == used.replica.replica_id
        assert await router.release(str(unused.lease.token))
        assert not await router.release(str(unused.lease.token))
        assert replica.load.held == 0


async def test_the_same_request_id_gets_the_same_token(router: Router) -> None:
    replica = FakeReplica(capacity=2)
    async with running(replica):
        router.apply(table(1, replica))
        one = await router.reserve(KEY, request_id="r", deadline=None)
        same = await router.reserve(KEY, request_id="r", deadline=None)
    assert one.lease.token == same.lease.token


async def test_the_same_request_id_gets_the_same_of_several_replicas_while_that_lives(router: Router) -> None:
    replicas = [FakeReplica(name, capacity=9) for name in "abc"]
    async with running(*replicas):
        router.apply(table(1, *replicas))
        await until_connected(router, *replicas)
        first = await router.reserve(KEY, request_id="r", deadline=None)
        for _ in range(8):
            assert (await router.reserve(KEY, request_id="r", deadline=None)).lease.token == first.lease.token
        assert sum(replica.load.held for replica in replicas) == 1
        assert await router.release(str(first.lease.token))
        assert (await router.reserve(KEY, request_id="r", deadline=None)).lease.token != first.lease.token
        assert sum(replica.load.held for replica in replicas) == 1


async def test_one_that_leaves_the_table_keeps_its_promise_for_the_same_request_id(router: Router) -> None:
    replicas = [FakeReplica(name, capacity=9) for name in "ab"]
    async with running(*replicas):
        router.apply(table(1, *replicas))
        await until_connected(router, *replicas)
        first = await router.reserve(KEY, request_id="r", deadline=None)
        left = [replica for replica in replicas if replica.name != first.replica.replica_id]
        router.apply(table(2, *left))
        assert (await router.reserve(KEY, request_id="r", deadline=None)).lease.token == first.lease.token
        assert (await router.reserve(KEY, request_id="s", deadline=None)).replica.replica_id == left[0].name


async def test_a_reservation_under_way_is_given_back_when_its_caller_goes(router: Router) -> None:
    replica = FakeReplica(capacity=1)
    replica.reserve_gate = asyncio.Event()
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        reserving = asyncio.ensure_future(router.reserve(KEY, deadline=None))
        replica.changed.clear()
        await replica.changed.wait()
        reserving.cancel()
        await asyncio.wait({reserving})
        assert reserving.cancelled()
        replica.reserve_gate.set()
        await replica.until(lambda: len(replica.requests) == 1 and replica.load.held == 0)


async def test_a_token_is_good_for_its_deployment_only(router: Router) -> None:
    replica = FakeReplica()
    async with running(replica):
        router.apply(table(1, replica))
        token = str((await router.reserve(KEY, deadline=None)).lease.token)
        with pytest.raises(SlotUnknownError, match=r"not for other\.Model"):
            router.locate(token, DeploymentKey("other", "Model"))
        with pytest.raises(SlotUnknownError):
            router.locate("garbage")
        with pytest.raises(SlotUnknownError):
            await router.release("\x00")


async def test_a_token_outlives_its_replicas_place_in_the_table(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        reservation = await router.reserve(KEY, deadline=None)
        router.apply(table(2))
        await settled()
        with_token = request("with token")
        with_token.slot_token = str(reservation.lease.token)
        assert (await calls.unary(KEY, with_token, ENDLESS))[1] == replica.name


async def test_a_dispatch_that_is_cut_off_gives_its_token_back(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        for _ in range(20):
            with_token = request("cut off")
            with_token.slot_token = str((await router.reserve(KEY, deadline=monotonic() + 30)).lease.token)
            cut_off = asyncio.ensure_future(calls.unary(KEY, with_token, ENDLESS))
            await asyncio.sleep(0)
            cut_off.cancel()
            await asyncio.wait({cut_off})
            await replica.until(lambda: replica.load.held == 0)
