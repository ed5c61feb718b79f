"""Changes of deployments that have actors, with real processes: who waits for whom, and what is left of the old ones."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from serve_core.client import ControllerClient
from serve_core.errors import ServeError, StartError
from serve_core.model.status import DeploymentState, DeploymentStatus, RolloutPhase
from tests.apps.gate import Gate
from tests.integration.actor_stage import KEY, PATIENCE_S, ActorStage, actor_of, is_running, load, pids_of, tally

pytestmark = pytest.mark.integration


def versions(deployment: DeploymentStatus) -> int:
    """How many revisions have an actor that runs."""
    return len({one.revision for one in deployment.actors if one.pid and one.replica is not None})


def whole(deployment: DeploymentStatus) -> bool:
    """Whether the change is over, and nothing of the old revision is left."""
    return (
        deployment.state is DeploymentState.HEALTHY
        and len(deployment.actors) == 1
        and all(one.replica.revision == deployment.revision for one in deployment.replicas)
    )


async def test_one_replica_serves_on_while_the_actor_of_the_next_revision_never_becomes_ready() -> None:
    async with ActorStage() as stage:
        await stage.deploy(num_replicas=1)
        before = await stage.until(whole)
        async with load(stage) as calls:
            hanging = tally(2, hang=True, start_deadline_s=3.0, max_restarts=0)
            await stage.deploy(hanging, version=2, num_replicas=1, wait=False)
            during = await stage.until(lambda status: len(status.actors) == 2)
            assert [one.pid for one in during.replicas] == [before.replicas[0].pid]
            after = await stage.until(
                lambda status: (
                    whole(status) and status.rollout is not None and status.rollout.phase is RolloutPhase.ROLLED_BACK
                )
            )
        assert calls.failed == []
        assert pids_of(after) == pids_of(before)
        assert after.rollout is not None
        assert after.rollout.failure is not None
        assert after.rollout.failure.reason == "DEPLOYMENT_ACTOR_FAILED"
        assert (await stage.handle.me())["version"] == 1


async def test_an_actor_that_cannot_start_fails_the_first_deploy_and_the_next_one_is_free_of_it() -> None:
    async with ActorStage() as stage:
        with pytest.raises(ServeError, match="start_deadline_s") as caught:
            await stage.deploy(tally(hang=True, start_deadline_s=0.5, max_restarts=0))
        assert isinstance(caught.value, StartError)
        assert caught.value.reason == "DEPLOYMENT_ACTOR_FAILED"
        await stage.deploy(tally(2))
        assert (await stage.handle.actor())["version"] == 2


async def test_a_controller_that_is_killed_amid_a_change_finds_the_actors_of_both_revisions() -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        for _ in range(5):
            await stage.handle.add()
        before = await stage.until(whole)
        async with load(stage) as calls:
            await stage.deploy(tally(2), version=2, wait=False, min_ready_s=2.0)
            during = await stage.until(lambda status: versions(status) == 2 and len(status.replicas) > 2)
            await stage.replace_controller()
            found = await stage.until(lambda status: versions(status) == 2)
            lives = {(one.pid, one.incarnation) for one in found.actors}
            assert lives == {(one.pid, one.incarnation) for one in during.actors}
            after = await stage.until(whole)
        assert calls.failed == []
        assert (await stage.handle.actor())["version"] == 2
        assert (await stage.handle.me())["version"] == 2
        left = set(pids_of(before).values()) | set(pids_of(during).values())
        assert [pid for pid in left - set(pids_of(after).values()) if is_running(pid)] == []


async def test_replicas_are_replaced_after_an_actor_that_lost_its_state() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(on_failure="RESTART_REPLICAS"))
        before = await stage.until(whole)
        async with load(stage) as calls:
            os.kill(actor_of(before).pid, signal.SIGKILL)
            old = {one.pid for one in before.replicas}
            after = await stage.until(
                lambda status: (
                    whole(status) and len(status.replicas) == 2 and not old & {one.pid for one in status.replicas}
                )
            )
        assert calls.failed == []
        assert actor_of(after).incarnation == 2
        assert after.revision == before.revision


async def test_what_is_deployed_as_it_is_keeps_its_actor_and_what_changes_it_gets_an_empty_one() -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        await stage.handle.add()
        before = await stage.until(whole)
        await stage.deploy()
        assert pids_of(await stage.until(whole)) == pids_of(before)
        await stage.deploy(max_ongoing_requests=16)
        assert pids_of(await stage.until(whole)) == pids_of(before)
        await stage.deploy(tally(2))
        after = await stage.until(whole)
        assert actor_of(after).pid != actor_of(before).pid
        assert await stage.handle.get() == 0


async def test_an_actor_that_revisions_share_outlives_them() -> None:
    async with ActorStage() as stage:
        await stage.deploy(tally(shared="deployment"))
        await stage.handle.add()
        before = await stage.until(whole)
        async with load(stage) as calls:
            await stage.deploy(tally(shared="deployment"), version=2)
            after = await stage.until(whole)
        assert calls.failed == []
        assert after.revision != before.revision
        assert actor_of(after).pid == actor_of(before).pid
        assert await stage.handle.get() == 1 + calls.answered


async def test_of_three_changes_in_a_row_only_the_last_is_left(tmp_path: Path) -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        with Gate(tmp_path / "start") as start:
            await stage.deploy(tally(2, start_gate=start.path), version=2, wait=False)
            await stage.until(lambda status: len(status.actors) == 2)
            await stage.deploy(tally(3), version=3, wait=False)
        await stage.deploy(tally(3), version=3)
        after = await stage.until(whole)
        assert (await stage.handle.actor())["version"] == 3
        mine = psutil.Process().children(recursive=True)
        running = {one.pid for one in mine if any(str(KEY) in word for word in _command(one))}
        assert running == set(pids_of(after).values())


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_deploys_deletes_and_crashes_that_overlap_leave_nothing(tmp_path: Path) -> None:
    async with ActorStage() as stage:
        await stage.deploy()
        before = await stage.until(whole)
        with Gate(tmp_path / "start") as start:
            await stage.deploy(tally(2, start_gate=start.path), version=2, wait=False)
            during = await stage.until(lambda status: versions(status) == 2)
            async with ControllerClient(stage.address) as client:
                await client.delete(KEY.application)
        await stage.replace_controller(actor_of(before).pid)
        async with asyncio.timeout(PATIENCE_S), ControllerClient(stage.address) as client:
            async for status in client.watch():
                if not status.applications:
                    break
        pids = set(pids_of(before).values()) | set(pids_of(during).values())
        assert [pid for pid in pids if is_running(pid)] == []
