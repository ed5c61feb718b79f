"""SIGKILL of the controller at several points of a rollout: the next one goes on, and nobody notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import DeploymentStatus, RolloutPhase
from tests.apps.gate import Gate
from tests.chaos.stage import SOME_CALLS, Stage, pids

pytestmark = pytest.mark.chaos


def _new(deployment: DeploymentStatus, phase: ReplicaPhase) -> bool:
    return any(one.phase is phase and one.replica.revision == deployment.revision for one in deployment.replicas)


POINTS: dict[str, Callable[[DeploymentStatus], bool]] = {
    "accepted": lambda seen: True,
    "starting": lambda seen: len(seen.revisions) > 1 and _new(seen, ReplicaPhase.STARTING),
    "ready": lambda seen: len(seen.revisions) > 1 and _new(seen, ReplicaPhase.READY),
    "draining": lambda seen: any(one.phase is ReplicaPhase.DRAINING for one in seen.replicas),
}

LET_START = {"starting": 0, "ready": 1}
"""How many new replicas may become ready before the point is seen; all of them at the other points."""


@pytest.mark.parametrize("point", POINTS)
async def test_a_rollout_goes_on_after_the_controller_was_killed(stage: Stage, point: str, tmp_path: Path) -> None:
    # Replicas start and end within one look otherwise.
    with Gate(tmp_path / "start") as start, Gate(tmp_path / "end") as end:
        if point != "draining":
            end.open()
        await stage.serve(1, num_replicas=2, end_gate=end.path)
        async with stage.load() as load:
            if point in LET_START:
                start.let_through(LET_START[point])
            else:
                start.open()
            generation = await stage.operator.deploy(stage.spec(2, num_replicas=2, start_gate=start.path))
            at_kill = await stage.operator.until_deployment(POINTS[point])
            await stage.kill_controller()
            start.open()
            end.open()
            after = await stage.operator.until_whole(generation)
            await load.more(SOME_CALLS)

    assert not load.failed
    assert {call.version for call in load.calls[-SOME_CALLS:]} == {2}
    new = {one.pid for one in at_kill.replicas if one.replica.revision == after.revision and one.pid}
    assert new <= pids(after), "a new replica was started again, only because the controller was"
    assert not stage.ran_twice()


async def test_nothing_healthy_is_restarted_because_the_controller_was(stage: Stage) -> None:
    before = await stage.serve(1, num_replicas=3)
    async with stage.load() as load:
        await stage.kill_controller()
        await load.more(SOME_CALLS)
        await stage.kill_controller()
        after = await stage.operator.until_whole()

    assert not load.failed
    assert pids(after) == pids(before)
    assert [one.restarts for one in after.replicas] == [0, 0, 0]


async def test_a_pause_survives_the_controller(stage: Stage) -> None:
    await stage.serve(1, num_replicas=2)
    async with stage.load() as load:
        generation = await stage.operator.deploy(stage.spec(2, num_replicas=2, pause_at="50%"))
        paused = await stage.operator.until_deployment(
            lambda seen: seen.rollout is not None and seen.rollout.phase is RolloutPhase.PAUSED
        )
        await stage.kill_controller()
        still = await stage.operator.until_deployment(lambda seen: len(seen.replicas) == len(paused.replicas))
        await load.until(lambda calls: {call.version for call in calls} == {1, 2})
        await stage.operator.resume()
        await stage.operator.until_whole(generation)

    assert not load.failed
    assert still.rollout is not None
    assert still.rollout.phase is RolloutPhase.PAUSED
