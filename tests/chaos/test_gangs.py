"""Gangs that things are done to while they serve: killed members, updates, drains. Only what was inside a killed one fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from bench.gang_stage import SOME_CALLS, GangStage, ganged_spec, gangs_of
from bench.gangs import VARIANTS, Size, measure
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import DeploymentStatus
from serve_core.v1 import router_pb2_grpc
from tests.chaos.conversations import open_conversations, say_to_all

pytestmark = pytest.mark.chaos

SIZES = {
    "kill": Size(members=2, rate_per_s=200.0),
    "repair": Size(members=2, rate_per_s=200.0),
    "update": Size(members=4),
    "tight": Size(members=4),
}
"""Where a member is killed, calls come so fast that some are inside each of the others."""


@pytest.mark.parametrize("variant", VARIANTS)
async def test_nobody_else_notices(variant: str) -> None:
    result = await measure(variant, SIZES.get(variant, Size(members=2)))

    assert not result.wrong
    assert result.fewest >= result.least
    if variant in ("kill", "repair"):
        assert result.finished, "nothing was inside the killed member's siblings, so that it was not put to the test"


async def test_gangs_are_made_and_dissolved_while_they_serve(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 8}) as stage:
        await stage.serve(1, num_replicas=4)
        async with stage.load() as load, stage.watched() as watch:
            sizes = []
            for size in (2, 1):
                after = await stage.serve(1, num_replicas=4, gang={"size": size})
                await load.more(SOME_CALLS)
                sizes.append([len(members) for members in gangs_of(after).values()])

    assert not load.failed
    assert sizes == [[2, 2], [1, 1, 1, 1]]
    assert watch.fewest >= 2


async def test_a_member_dies_with_streams_open_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with GangStage(tmp_path, {"a": 3, "b": 3, "c": 3}) as stage:
        before = await stage.serve(1, num_replicas=6, gang={"size": 3})
        (broken, (_, victim, third)), (_, others) = gangs_of(before).items()
        async with grpc.aio.insecure_channel(stage.cluster.router_address) as channel:
            stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)
            conversations = [one for member in (third, *others) for one in await open_conversations(stub, member, 3)]
            killed_at = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            after = await stage.operator.until_deployment(
                lambda seen: broken not in whole_gangs(seen) and len(whole_gangs(seen)) == 2
            )
            took_s = time.monotonic() - killed_at
            said_by = await say_to_all(conversations, "still there")
            for one in conversations:
                await one.end()
        last = await stage.operator.until_whole()

    assert said_by == [one.pid for one in (third, *others) for _ in range(3)]
    assert {one.pid for one in others} <= {one.pid for one in after.replicas}
    assert broken not in gangs_of(last)
    with capsys.disabled():
        print(f"\na whole ready gang {took_s * 1000:.0f} ms after a member was killed")


def whole_gangs(deployment: DeploymentStatus) -> set[str]:
    """The gangs that serve."""
    return {
        gang_id
        for gang_id, members in gangs_of(deployment).items()
        if all(one.phase is ReplicaPhase.READY and one.in_rotation for one in members)
    }


async def test_no_member_ends_while_another_has_work(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 6}) as stage:
        before = await stage.serve(1, num_replicas=3, gang={"size": 3}, max_surge=3)
        async with grpc.aio.insecure_channel(stage.cluster.router_address) as channel:
            stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)
            (conversation,) = await open_conversations(stub, before.replicas[0], 1)
            generation = await stage.operator.deploy(ganged_spec(2, num_replicas=3, gang={"size": 3}, max_surge=3))
            draining = await stage.operator.until_deployment(
                lambda seen: (
                    [one.drain_remaining_s is not None for one in seen.replicas].count(True) == 3
                    and seen.updated_replicas == seen.ready_replicas == 3
                )
            )
            # Each word goes to the last rank, too: an idle member must be there for it.
            for word in ("one", "two", "three"):
                assert await conversation.say(word) == before.replicas[0].pid
            await conversation.end()
        after = await stage.operator.until_whole(generation)

    old = {one.pid for one in before.replicas}
    assert {one.pid for one in draining.replicas if one.phase is ReplicaPhase.DRAINING} == old
    assert not old & {one.pid for one in after.replicas}
    assert not after.failures


async def test_a_rollout_of_gangs_goes_on_after_the_controller_was_killed(tmp_path: Path) -> None:
    async with GangStage(tmp_path, {"a": 6}) as stage:
        await stage.serve(1, num_replicas=4, gang={"size": 2})
        async with stage.load() as load, stage.watched() as watch:
            slow = ganged_spec(2, num_replicas=4, gang={"size": 2}, min_ready_s=1.0)
            generation = await stage.operator.deploy(slow)
            at_kill = await stage.operator.until_deployment(
                lambda seen: any(one.pid and one.replica.revision == seen.revision for one in seen.replicas)
            )
            assert any(one.replica.revision != at_kill.revision for one in at_kill.replicas)
            await stage.kill_controller()
            after = await stage.operator.until_whole(generation)
            await load.more(SOME_CALLS)

    assert not load.failed
    assert watch.fewest >= 2
    assert {call.version for call in load.calls[-SOME_CALLS:]} == {2}
    new = {one.pid for one in at_kill.replicas if one.replica.revision == after.revision and one.pid}
    assert new <= {one.pid for one in after.replicas}, "a new gang was started again, only because the controller was"
