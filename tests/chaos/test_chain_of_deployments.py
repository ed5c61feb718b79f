"""A deployment that calls another one, under a load that does not notice what becomes of both."""

from __future__ import annotations

import pytest

from bench.operating import APPLICATION, ROOT, whole
from serve_core.api import build
from serve_core.model.status import ClusterStatus, RolloutPhase
from tests.apps.chain import called, passing
from tests.chaos.stage import SOME_CALLS, Stage

pytestmark = pytest.mark.chaos


async def _deploy(stage: Stage, *, passes: int, is_called: int, sound: bool = True) -> None:
    """Deploys these versions, and waits until all that is there is whole, and what was sound is what was asked for."""
    bound = called.options(working_dir=str(ROOT), max_start_failures=1).bind(is_called, str(stage.journal), sound)
    spec = build(passing.options(working_dir=str(ROOT)).bind(bound, passes), APPLICATION)
    generation = await stage.operator.deploy(spec)
    outcome = RolloutPhase.COMPLETE if sound else RolloutPhase.ROLLED_BACK

    def settled(status: ClusterStatus) -> bool:
        (application,) = status.applications
        return (
            application.observed_generation >= generation
            and all(whole(one) for one in application.deployments)
            and _phase_of("Called", status) in (None, outcome)
        )

    await stage.operator.until(settled)


def _phase_of(name: str, status: ClusterStatus) -> RolloutPhase | None:
    (found,) = [one for one in status.applications[0].deployments if one.name == name]
    return None if found.rollout is None else found.rollout.phase


async def test_no_call_of_a_chain_fails_while_both_are_updated_one_is_broken_and_one_is_undone(stage: Stage) -> None:
    await _deploy(stage, passes=1, is_called=1)
    async with stage.load() as load:
        await _deploy(stage, passes=2, is_called=2)
        await load.more(SOME_CALLS)
        updated = {call.version for call in load.calls[-SOME_CALLS // 2 :]}
        await _deploy(stage, passes=2, is_called=3, sound=False)
        await load.more(SOME_CALLS)
        held = {call.version for call in load.calls[-SOME_CALLS // 2 :]}
        revision = await stage.operator.undo()
        await stage.operator.until_deployment(lambda seen: seen.revision == revision and whole(seen))
        await load.more(SOME_CALLS)

    assert not load.failed
    assert (updated, held) == ({2}, {2})
    assert {call.version for call in load.calls[-SOME_CALLS // 2 :]} == {1}
    assert not stage.ran_twice()
