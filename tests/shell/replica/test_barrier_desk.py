"""The leader's barriers, before it knows its gang."""

from __future__ import annotations

import asyncio

import pytest

from replica.barrier import BarrierDesk
from replica.core.barrier import Visit
from serve_core.errors import GangChangedError
from serve_core.model.ids import GangId
from serve_core.model.replica import Gang

GANG = Gang(gang_id=GangId("app.dep.g1"), rank=0, size=1)
PATIENCE_S = 50.0


def visit(rank: int = 0) -> Visit:
    return Visit(name="init", epoch=1, rank=rank, round=0)


async def test_who_comes_before_the_leader_knows_its_gang_waits_for_that() -> None:
    desk = BarrierDesk()
    meeting = asyncio.ensure_future(desk.meet(GANG.gang_id, visit(), timeout_s=PATIENCE_S))
    await asyncio.sleep(0)
    assert not meeting.done()
    desk.serve(GANG)
    desk.begin(1)
    assert await meeting == ()


async def test_nobody_waits_for_a_gang_beyond_the_time_that_there_is() -> None:
    with pytest.raises(GangChangedError):
        await BarrierDesk().meet(GANG.gang_id, visit(), timeout_s=0.01)


async def test_a_member_of_another_gang_is_told_at_once() -> None:
    desk = BarrierDesk()
    desk.serve(GANG)
    with pytest.raises(GangChangedError, match=r"this is gang 'app\.dep\.g1'"):
        await desk.meet("app.dep.g0", visit(), timeout_s=None)
