"""A router leaves a replica that drains as soon as nothing of its own can be there, or on its way there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from router.forward import Router
from serve_core.model.ids import RouterId
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime.supervisor import Supervisor
from tests.shell.router.fakes import KEY, FakeReplica, running, table, until_connected

LONG_S = 600.0


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with Supervisor("test") as tasks:
        router = Router(router_id=RouterId("router-1"), tasks=tasks)
        yield router
        await router.close()


async def test_it_leaves_although_a_lease_has_not_ended_when_nothing_is_held(router: Router) -> None:
    replica = FakeReplica()
    replica.ttl_s = LONG_S
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        reservation = await router.reserve(KEY, deadline=None)
        await router.release(str(reservation.lease.token))
        router.apply(table(2))
        replica.set_phase(ReplicaPhase.DRAINING)
        await replica.until(lambda: replica.watchers == 0)


async def test_it_stays_while_a_promise_is_held(router: Router) -> None:
    replica = FakeReplica()
    replica.ttl_s = LONG_S
    async with running(replica):
        router.apply(table(1, replica))
        await until_connected(router, replica)
        reservation = await router.reserve(KEY, deadline=None)
        token = str(reservation.lease.token)
        router.apply(table(2))
        replica.set_phase(ReplicaPhase.DRAINING)
        assert await router.release(token), "the promise ended before it was given back"
        replica.set_phase(ReplicaPhase.DRAINING)
        await replica.until(lambda: replica.watchers == 0)
