"""What operators do while a rollout is under way, under a load that does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_core.model.status import DeploymentStatus, RolloutPhase
from tests.apps.gate import Gate
from tests.chaos.stage import SOME_CALLS, Stage

pytestmark = pytest.mark.chaos


def _phase(deployment: DeploymentStatus) -> RolloutPhase | None:
    return None if deployment.rollout is None else deployment.rollout.phase


async def test_a_newer_deploy_takes_over_from_one_under_way(stage: Stage, tmp_path: Path) -> None:
    await stage.serve(1, num_replicas=2)
    async with stage.load() as load:
        with Gate(tmp_path / "start") as start:
            await stage.operator.deploy(stage.spec(2, num_replicas=2, start_gate=start.path))
            await stage.operator.until_deployment(lambda seen: len(seen.replicas) > 2)
            generation = await stage.operator.deploy(stage.spec(3, num_replicas=2))
        await stage.operator.until_whole(generation)
        await load.until(lambda calls: any(call.version == 3 for call in calls))
        await load.more(SOME_CALLS)

    assert not load.failed
    assert {call.version for call in load.calls[-SOME_CALLS:]} == {3}
    assert not stage.ran_twice()


async def test_a_paused_rollout_waits_with_both_versions_serving(stage: Stage) -> None:
    await stage.serve(1, num_replicas=4)
    async with stage.load() as load:
        generation = await stage.operator.deploy(stage.spec(2, num_replicas=4, pause_at="25%"))
        paused = await stage.operator.until_deployment(lambda seen: _phase(seen) is RolloutPhase.PAUSED)
        await load.until(lambda calls: {call.version for call in calls} == {1, 2})
        still = await stage.operator.until_deployment(lambda seen: _phase(seen) is RolloutPhase.PAUSED)
        await stage.operator.resume()
        await stage.operator.until_whole(generation)
        await load.more(SOME_CALLS)

    assert not load.failed
    assert paused.rollout is not None
    assert still.rollout is not None
    assert paused.rollout.updated_available == still.rollout.updated_available == 1
    assert {call.version for call in load.calls[-SOME_CALLS:]} == {2}


async def test_a_rollout_is_paused_resumed_and_undone_by_hand(stage: Stage, tmp_path: Path) -> None:
    before = await stage.serve(1, num_replicas=2)
    async with stage.load() as load:
        with Gate(tmp_path / "start") as start:
            start.let_through(1)
            await stage.operator.deploy(stage.spec(2, num_replicas=2, start_gate=start.path))
            await stage.operator.until_deployment(lambda seen: seen.updated_replicas >= 1)
            await stage.operator.pause()
            await stage.operator.until_deployment(lambda seen: _phase(seen) is RolloutPhase.PAUSED)
            await stage.operator.resume()
            await stage.operator.until_deployment(lambda seen: _phase(seen) is not RolloutPhase.PAUSED)
            assert await stage.operator.undo() == before.revision
        after = await stage.operator.until_deployment(
            lambda seen: (
                seen.revision == before.revision and len(seen.replicas) == 2 and _phase(seen) is RolloutPhase.COMPLETE
            )
        )
        await load.more(SOME_CALLS)

    assert not load.failed
    assert after.ready_replicas == 2
    assert {call.version for call in load.calls[-SOME_CALLS:]} == {1}
