"""A router against real gRPC servers: queueing, handing over, retries, losses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

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
    ReplicaDiedError,
    ReplicaUnavailableError,
    SlotUnknownError,
)
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, types_pb2
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected, until_disconnected

ENDLESS = Budget(wait_until=None, end_at=None)


@pytest.fixture
async def tasks() -> AsyncIterator[Supervisor]:
    async with Supervisor("test") as tasks:
        yield tasks


@pytest.fixture
async def router(tasks: Supervisor) -> AsyncIterator[Router]:
    router = Router(router_id=RouterId("router-1"), tasks=tasks)
    yield router
    await router.close()


def request(name: str = "", *, slots: int = 0) -> replica_pb2.DispatchRequest:
    payload = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"1")
    return replica_pb2.DispatchRequest(method="m", arguments=payload, request_id=name, slots=slots)


def gated(gate: asyncio.Event) -> Callable[[replica_pb2.DispatchRequest], Awaitable[bytes]]:
    async def work(_: replica_pb2.DispatchRequest) -> bytes:
        await gate.wait()
        return b"2"

    return work


def depth(router: Router) -> int:
    return sum(waiting for _, _, waiting in router.queue_depths())


async def settled() -> None:
    """Lets everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


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


async def test_a_draining_replica_gets_nothing_new(router: Router, tasks: Supervisor) -> None:
    draining, ready = FakeReplica("shop.Model.a-0"), FakeReplica("shop.Model.b-0")
    calls = Calls(router, tasks)
    async with running(draining, ready):
        router.apply(table(1, draining, ready))
        await until_connected(router, draining, ready)
        draining.phase = ReplicaPhase.DRAINING
        for name in "abcdef":
            assert (await calls.unary(KEY, request(name), ENDLESS))[1] == ready.name
    assert draining.refused <= 1


async def test_a_call_inside_a_dying_replica_is_not_repeated(router: Router, tasks: Supervisor) -> None:
    dying, other = FakeReplica("shop.Model.a-0"), FakeReplica("shop.Model.b-0")
    dying.work = gated(asyncio.Event())
    calls = Calls(router, tasks)
    async with running(dying, other):
        router.apply(table(1, dying))
        await until_connected(router, dying)
        inside = asyncio.ensure_future(calls.unary(KEY, request("inside"), ENDLESS))
        await dying.until(lambda: dying.ongoing == 1)
        router.apply(table(2, dying, other))
        await until_connected(router, other)
        await dying.stop()
        with pytest.raises(ReplicaDiedError, match=dying.name):
            await inside
        await until_disconnected(router, dying)
        for name in "abcdef":
            assert (await calls.unary(KEY, request(name), ENDLESS))[1] == other.name
    assert "inside" not in other.served


async def test_a_replica_that_comes_back_is_used_again(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await calls.unary(KEY, request("before"), ENDLESS)
        port = int(replica.address.rpartition(":")[2])
        await replica.stop()
        await until_disconnected(router, replica)
        waiting = asyncio.ensure_future(calls.unary(KEY, request("after"), ENDLESS))
        await settled()
        assert not waiting.done()
        await replica.start(port)
        await waiting
    assert replica.served == ["before", "after"]


async def test_a_failed_connect_is_tried_elsewhere(router: Router) -> None:
    """The sender itself finds out that the replica is not reached."""
    one, other = FakeReplica("shop.Model.a-0"), FakeReplica("shop.Model.b-0")
    tried: list[str] = []

    async def send(upstream: Upstream) -> str:
        tried.append(upstream.replica.replica_id)
        if len(tried) == 1:
            raise ReplicaUnavailableError("gone")
        return upstream.replica.replica_id

    async with running(one, other):
        router.apply(table(1, one, other))
        await until_connected(router, one, other)
        served_by = await router.run(KEY, send, deadline=None)
    assert len(tried) == 2
    assert served_by == tried[1] != tried[0]


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


async def test_a_replica_that_leaves_finishes_what_it_has(router: Router, tasks: Supervisor) -> None:
    leaving, staying = FakeReplica("shop.Model.a-0"), FakeReplica("shop.Model.b-0")
    gate = asyncio.Event()
    leaving.work = gated(gate)
    calls = Calls(router, tasks)
    async with running(leaving, staying):
        router.apply(table(1, leaving))
        running_call = asyncio.ensure_future(calls.unary(KEY, request("long"), ENDLESS))
        await leaving.until(lambda: leaving.ongoing == 1)
        router.apply(table(2, staying))
        assert (await calls.unary(KEY, request("next"), ENDLESS))[1] == staying.name
        assert leaving.watchers == 1
        gate.set()
        assert (await running_call)[1] == leaving.name
        # It drains and holds nothing: the connection closes.
        leaving.set_phase(ReplicaPhase.DRAINING)
        await leaving.until(lambda: leaving.watchers == 0)
        with pytest.raises(ReplicaUnavailableError):
            router.locate(f"{'0' * 32}.1.{leaving.name}")


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


async def test_a_replica_that_left_before_it_was_reached_is_given_up(router: Router) -> None:
    replica = FakeReplica()
    async with running(replica):
        pass
    router.apply(table(1, replica))
    router.apply(table(2))
    async with asyncio.timeout(5):
        while _is_located(router, replica):
            await settled()


def _is_located(router: Router, replica: FakeReplica) -> bool:
    try:
        router.locate(f"{'0' * 32}.1.{replica.name}")
    except ReplicaUnavailableError:
        return False
    return True


async def test_a_replica_that_comes_back_has_one_connection(router: Router) -> None:
    replica = FakeReplica()
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        router.apply(table(2))
        router.apply(table(3, replica))
        await until_connected(router, replica)
        await replica.until(lambda: replica.watchers == 1)
        assert router.locate(f"{'0' * 32}.1.{replica.name}").connected


async def test_a_request_that_weighs_too_much_is_refused(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=2)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        await calls.unary(KEY, request("fits", slots=2), ENDLESS)
        with pytest.raises(ConfigInvalidError, match="3 is more than 2"):
            await calls.unary(KEY, request("does not", slots=3), ENDLESS)


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


async def test_a_stream_holds_its_slot_to_its_end(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()

    async def items() -> AsyncIterator[types_pb2.Payload]:
        yield types_pb2.Payload(data=b"x")
        await gate.wait()
        yield types_pb2.Payload(data=b"y")

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        answers = calls.stream(KEY, request("stream"), items(), ENDLESS)
        assert (await anext(answers)).data == b"1"
        assert (await anext(answers)).data == b"x"
        other = asyncio.ensure_future(calls.unary(KEY, request("other"), ENDLESS))
        await settled()
        assert not other.done()
        gate.set()
        assert [answer.data async for answer in answers] == [b"y"]
        await other
    assert replica.served == ["stream", "other"]
    assert replica.load.held == 0


async def test_an_abandoned_stream_frees_its_slot(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)

    async def items() -> AsyncIterator[types_pb2.Payload]:
        await asyncio.Event().wait()
        yield types_pb2.Payload()

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        answers = calls.stream(KEY, request("stream"), items(), ENDLESS)
        await anext(answers)
        await answers.aclose()
        await calls.unary(KEY, request("next"), ENDLESS)
    assert replica.load.held == 0


async def test_an_error_of_the_callers_items_is_the_callers(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)

    async def items() -> AsyncIterator[types_pb2.Payload]:
        yield types_pb2.Payload(data=b"x")
        raise LookupError("the caller's own")

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        with pytest.raises(LookupError, match="the caller's own"):
            async for _ in calls.stream(KEY, request("stream"), items(), ENDLESS):
                pass
        await calls.unary(KEY, request("next"), ENDLESS)
    assert replica.load.held == 0


async def test_a_replica_that_was_not_reached_proves_itself_by_a_new_watch(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica()
    watches: list[str] = []

    async def send(upstream: Upstream) -> None:
        watches.append(upstream.owner_id)
        if len(watches) == 1:
            raise ReplicaUnavailableError("not reached")

    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        # The only replica: the second try has to wait for the new subscription.
        await router.run(KEY, send, deadline=monotonic() + 5)
        assert len(set(watches)) == 2


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


async def test_a_replica_that_restarts_under_its_id_is_connected_anew(router: Router, tasks: Supervisor) -> None:
    before, after = FakeReplica(), FakeReplica()
    calls = Calls(router, tasks)
    async with running(before, after):
        router.apply(table(1, before))
        await calls.unary(KEY, request("before"), ENDLESS)
        router.apply(table(2, after))
        await calls.unary(KEY, request("after"), ENDLESS)
        await before.until(lambda: before.watchers == 0)
    assert (before.served, after.served) == (["before"], ["after"])


async def test_a_dispatch_that_is_cut_off_gives_its_token_back(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        for _ in range(20):
            with_token = request("cut off")
            with_token.slot_token = str((await router.reserve(KEY, deadline=monotonic() + 5)).lease.token)
            cut_off = asyncio.ensure_future(calls.unary(KEY, with_token, ENDLESS))
            await asyncio.sleep(0)
            cut_off.cancel()
            await asyncio.wait({cut_off})
            await replica.until(lambda: replica.load.held == 0)
