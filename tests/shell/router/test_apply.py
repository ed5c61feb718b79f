"""A change of the table costs what changed: counted, not timed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from router.forward import Router
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.model.ids import ReplicaId, RouterId
from serve_core.runtime.supervisor import Supervisor
from tests.lines import counting_lines
from tests.shell.router.fakes import FakeReplica, table

FEW, MANY = 3, 60


async def lines(replicas: int) -> dict[str, int]:
    """What each change takes in a table of so many replicas, none of which answers."""
    known = [FakeReplica(f"r{number}") for number in range(replicas)]
    for fake in known:
        fake.address = "127.0.0.1:1"
    whole = table(1, *known)
    (route,) = whole.upserted_deployments
    changes = {
        "a route": {"upserted_deployments": (replace(route, max_queued_requests=5),)},
        "a replica's metadata": {"upserted_replicas": (replace(known[1].replica, metadata={"a": "b"}),)},
        "a replica comes": {"upserted_replicas": (replace(known[0].replica, replica_id=ReplicaId("new")),)},
        "a replica leaves": {"removed_replica_ids": (known[2].name,)},
    }
    took = {}
    async with Supervisor("test") as tasks:
        router = Router(router_id=RouterId("router-1"), tasks=tasks)
        try:
            router.apply(whole)
            for version, (name, change) in enumerate(changes.items(), start=2):
                with counting_lines("/router/") as counted:
                    router.apply(TableChange(version=TableVersion("e1", version), snapshot=False, **change))  # type: ignore[arg-type]
                took[name] = counted.count
        finally:
            await router.close()
    return took


async def test_a_change_costs_the_same_in_a_small_and_in_a_big_table() -> None:
    few, many = await lines(FEW), await lines(MANY)
    for change, count in few.items():
        assert 0 < many[change] < count + MANY - FEW, (change, count, many[change])


@pytest.mark.parametrize(("maximum", "told"), [(1000, False), (5, True)])
async def test_only_who_waits_for_deployments_is_told_of_them(router: Router, *, maximum: int, told: bool) -> None:
    router.apply(table(1))
    waiting = asyncio.ensure_future(router.routes_changed(None))
    await asyncio.sleep(0)
    new = FakeReplica()
    new.address = "127.0.0.1:1"
    router.apply(table(2, new, maximum=maximum))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done() is told
    waiting.cancel()
