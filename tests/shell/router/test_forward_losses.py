"""A router against replicas that drain, die, leave, or come back."""

from __future__ import annotations

import asyncio

import pytest

from router.calls import Calls
from router.forward import Router
from router.upstream import Upstream
from serve_core.errors import ReplicaDiedError, ReplicaUnavailableError
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected, until_disconnected
from tests.shell.router.forwarding import ENDLESS, gated, request, settled


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
        await replica.stop()
        await until_disconnected(router, replica)
        waiting = asyncio.ensure_future(calls.unary(KEY, request("after"), ENDLESS))
        await settled()
        assert not waiting.done()
        await replica.start()
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


async def test_a_replica_that_left_before_it_was_reached_is_given_up(router: Router) -> None:
    replica = FakeReplica()
    async with running(replica):
        pass
    router.apply(table(1, replica))
    router.apply(table(2))
    async with asyncio.timeout(60):
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
        await router.run(KEY, send, deadline=monotonic() + 30)
        assert len(set(watches)) == 2


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
