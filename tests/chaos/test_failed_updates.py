"""Updates that cannot succeed, under a load that does not notice."""

from __future__ import annotations

import pytest

from serve_core.model.status import DeploymentStatus, RolloutPhase
from tests.chaos.stage import Stage, pids

pytestmark = pytest.mark.chaos


def _rolled_back(deployment: DeploymentStatus) -> bool:
    return deployment.rollout is not None and deployment.rollout.phase is RolloutPhase.ROLLED_BACK


async def test_a_constructor_that_hangs_is_rolled_back_by_itself(stage: Stage) -> None:
    before = await stage.serve(1, num_replicas=2)
    async with stage.load() as load:
        await stage.operator.deploy(
            stage.spec(2, hang=True, num_replicas=2, start_deadline_s=2.0, max_start_failures=1)
        )
        await stage.operator.until_deployment(_rolled_back)
        after = await stage.operator.until_deployment(lambda seen: _rolled_back(seen) and pids(seen) == pids(before))

    assert not load.failed
    assert {call.version for call in load.calls} == {1}
    assert after.revision == after.last_good_revision == before.revision
    assert after.rollout is not None
    assert after.rollout.failed_revision not in (None, before.revision)
    assert after.rollout.failure is not None
    assert after.rollout.failure.reason == "START_TIMED_OUT"
    assert after.ready_replicas == 2


async def test_the_same_again_after_it_was_mended(stage: Stage) -> None:
    """What was rolled back stands in nobody's way: the next deploy is tried like any other."""
    before = await stage.serve(1)
    async with stage.load() as load:
        await stage.operator.deploy(stage.spec(2, hang=True, start_deadline_s=2.0, max_start_failures=1))
        await stage.operator.until_deployment(_rolled_back)
        after = await stage.serve(2)
        await load.until(lambda calls: any(call.version == 2 for call in calls))

    assert not load.failed
    assert after.revision != before.revision
