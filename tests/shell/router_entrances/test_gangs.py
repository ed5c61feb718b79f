"""Users' own services on gangs: to the leader alone where that is wanted, and with the token of a whole gang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_core.errors import GangChangedError
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.model.gang import GangRoute
from serve_core.model.ids import GangId
from serve_core.model.replica import Gang
from tests.shell.router_entrances.harness import Entrance, FakeReplica, entrance, fake_replica, replica_value, route
from tests.shell.router_entrances.test_routing import KINDS, call, refused


def form_gang(served: Entrance, members: list[FakeReplica], *, version: int = 2) -> None:
    places = [Gang(gang_id=GangId("g"), rank=rank, size=2) for rank in range(len(members))]
    served.router.apply(
        TableChange(
            version=TableVersion("e", version),
            snapshot=True,
            upserted_deployments=(route(gang_route=GangRoute.LEADER, gang_size=2),),
            upserted_replicas=tuple(
                replica_value(member, gang=place) for member, place in zip(members, places, strict=True)
            ),
        )
    )


@pytest.fixture
async def served() -> AsyncIterator[Entrance]:
    async with fake_replica("r1") as one, fake_replica("r2") as two, entrance(one, two) as served:
        form_gang(served, served.replicas)
        yield served


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_go_to_the_leader(served: Entrance, kind: str) -> None:
    for _ in range(4):
        await call(served, kind)
    assert [len(replica.echo.calls) for replica in served.replicas] == [4, 0]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gangs_token_calls_the_leader_and_gives_the_rest_back(served: Entrance, kind: str) -> None:
    leader, other = served.replicas
    await call(served, kind, metadata=(("serve-core-slot", f"{leader.token},{other.token}"),))
    assert [seen["serve-core-slot"] for seen in leader.echo.calls] == [leader.token]
    async with asyncio.timeout(60):
        await other.desk.news.wait()
    assert (other.desk.released, leader.desk.released, other.echo.calls) == ([other.token], [], [])


async def test_a_gang_that_lost_a_member_runs_nothing(served: Entrance) -> None:
    leader, other = served.replicas
    served.router.apply(
        TableChange(
            version=TableVersion("e", 3),
            snapshot=False,
            upserted_replicas=(replica_value(other, gang=Gang(gang_id=GangId("g"), rank=1, size=2, epoch=2)),),
        )
    )
    token = f"{leader.token},{other.token}"
    assert isinstance(await refused(served, "unary", metadata=(("serve-core-slot", token),)), GangChangedError)
    async with asyncio.timeout(60):
        await leader.desk.news.wait()
        await other.desk.news.wait()
    assert [len(replica.echo.calls) for replica in served.replicas] == [0, 0]
