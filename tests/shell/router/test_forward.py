"""A router against real gRPC servers: queueing, handing over, refusals, deadlines."""

from __future__ import annotations

import asyncio

import pytest

from router.calls import Budget, Calls
from router.forward import Router
from router.upstream import Upstream
from serve_core.errors import (
    ConfigInvalidError,
    DeploymentUnavailableError,
    DeploymentUnknownError,
    NoSlotInTimeError,
    QueueFullError,
)
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected
from tests.shell.router.forwarding import ENDLESS, gated, request, settled


def depth(router: Router) -> int:
    return sum(waiting for _, _, waiting in router.queue_depths())


async def test_a_call_goes_to_a_replica_and_back(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    async with running(replica):
        router.apply(table(1, replica))
        response, ran_by = await Calls(router, tasks).unary(KEY, request("a"), ENDLESS)
    assert (response.result.data, ran_by) == (b"1", replica.name)


async def test_a_call_waits_for_a_replica_that_is_coming(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    router.apply(table(1))
    waiting = asyncio.ensure_future(Calls(router, tasks).unary(KEY, request("a"), ENDLESS))
    await settled()
    assert not waiting.done()
    async with running(replica):
        router.apply(table(2, replica))
        assert (await waiting)[1] == replica.name


async def test_one_slot_is_handed_over_in_order_and_never_shared(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        names = [str(number) for number in range(5)]
        await asyncio.gather(*(calls.unary(KEY, request(name), ENDLESS) for name in names))
    assert replica.served == names
    assert replica.most_ongoing == 1
    assert replica.refused == 0


async def test_the_queue_has_an_exact_limit(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()
    replica.work = gated(gate)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica, maximum=2))
        await until_connected(router, replica)
        admitted = [asyncio.ensure_future(calls.unary(KEY, request(str(n)), ENDLESS)) for n in range(3)]
        await replica.until(lambda: replica.ongoing == 1)
        with pytest.raises(QueueFullError) as refused:
            await calls.unary(KEY, request("one too many"), ENDLESS)
        assert refused.value.retry_after_s is not None
        assert depth(router) == 2
        assert [(one.replica_id, count) for one, count in router.ongoing()] == [(replica.name, 1)]
        gate.set()
        await asyncio.gather(*admitted)
        assert [count for _, count in router.ongoing()] == [0]
    assert replica.served == ["0", "1", "2"]


async def test_a_deadline_in_the_queue_costs_the_replica_nothing(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()
    replica.work = gated(gate)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        first = asyncio.ensure_future(calls.unary(KEY, request("first"), ENDLESS))
        await replica.until(lambda: replica.ongoing == 1)
        soon = monotonic() + 0.05
        with pytest.raises(NoSlotInTimeError, match="position 1 of 1"):
            await calls.unary(KEY, request("late"), Budget(wait_until=soon, end_at=soon))
        gate.set()
        await first
    assert replica.served == ["first"]


async def test_a_cancelled_waiter_leaves_and_the_next_is_served(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()
    replica.work = gated(gate)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        first, second, third = (asyncio.ensure_future(calls.unary(KEY, request(n), ENDLESS)) for n in "abc")
        await replica.until(lambda: replica.ongoing == 1)
        second.cancel()
        await asyncio.wait({second})
        assert depth(router) == 1
        gate.set()
        await asyncio.gather(first, third)
    assert replica.served == ["a", "c"]


async def test_a_cancelled_call_gives_its_slot_to_the_next(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()
    replica.work = gated(gate)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        first = asyncio.ensure_future(calls.unary(KEY, request("a"), ENDLESS))
        await replica.until(lambda: replica.ongoing == 1)
        second = asyncio.ensure_future(calls.unary(KEY, request("b"), ENDLESS))
        await settled()
        first.cancel()
        await asyncio.wait({first})
        gate.set()
        await second
    assert replica.served == ["a", "b"]


async def test_a_refusal_is_tried_elsewhere(router: Router, tasks: Supervisor) -> None:
    full, free = FakeReplica("shop.Model.a-0", capacity=1), FakeReplica("shop.Model.b-0", capacity=1)
    calls = Calls(router, tasks)
    async with running(full, free):
        router.apply(table(1, full, free))
        await until_connected(router, full, free)
        full.take()
        for name in "abcdefgh":
            assert (await calls.unary(KEY, request(name), ENDLESS))[1] == free.name
    # It was asked at most once: a refusal means full until told.
    assert full.refused <= 1


async def test_a_push_wakes_who_was_refused(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        replica.take()
        waiting = asyncio.ensure_future(Calls(router, tasks).unary(KEY, request("a"), ENDLESS))
        await replica.until(lambda: replica.refused == 1)
        await settled()
        replica.free()
        await waiting
    assert (replica.served, replica.refused) == (["a"], 1)


async def test_what_the_sender_raises_else_is_final_and_frees_the_slot(router: Router) -> None:
    replica = FakeReplica(capacity=1)

    async def send(upstream: Upstream) -> None:
        raise LookupError("the caller's own")

    async with running(replica):
        router.apply(table(1, replica))
        for _ in range(3):
            with pytest.raises(LookupError):
                await router.run(KEY, send, deadline=None)


async def test_a_deployment_that_gives_up_wakes_its_waiters(router: Router, tasks: Supervisor) -> None:
    router.apply(table(1))
    waiting = [asyncio.ensure_future(Calls(router, tasks).unary(KEY, request(n), ENDLESS)) for n in "ab"]
    await settled()
    router.apply(table(2, available=False))
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, DeploymentUnavailableError)
        assert "its constructor fails" in str(result)
    with pytest.raises(DeploymentUnavailableError):
        router.resolve("shop")
    with pytest.raises(DeploymentUnavailableError):
        await Calls(router, tasks).unary(KEY, request("later"), ENDLESS)


async def test_a_removed_deployment_wakes_its_waiters(router: Router, tasks: Supervisor) -> None:
    router.apply(table(1))
    waiting = asyncio.ensure_future(Calls(router, tasks).unary(KEY, request("a"), ENDLESS))
    await settled()
    router.apply(TableChange(version=TableVersion("e1", 2), snapshot=False, removed_deployments=(KEY,)))
    with pytest.raises(DeploymentUnknownError):
        await waiting


async def test_a_request_that_weighs_too_much_is_refused(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=2)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        await calls.unary(KEY, request("fits", slots=2), ENDLESS)
        with pytest.raises(ConfigInvalidError, match="3 is more than 2"):
            await calls.unary(KEY, request("does not", slots=3), ENDLESS)
