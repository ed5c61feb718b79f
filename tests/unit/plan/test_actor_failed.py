"""An actor that is given up, from every state that its deployment may be in: it is said, and what serves goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serve_core.errors import DeploymentActorFailedError
from serve_core.model.actor import ActorSharing
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.model.spec import OnFailure, RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState, RolloutPhase
from serve_core.plan import deploy
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord
from serve_core.rollouts import failure_of
from tests.unit.plan.world import KEY, World, a_spec, an_actor

CACHE = an_actor(max_restarts=1)
BAD = an_actor(import_path="app:Bad", max_restarts=1)
SLOW = an_actor(import_path="app:Slow", max_restarts=1, start_deadline_s=1000.0)
SHARED = an_actor(max_restarts=1, shared=ActorSharing.DEPLOYMENT)
HOLD = RolloutPolicy(on_failure=OnFailure.HOLD)

V1, V2 = "app:v1", "app:v2"
FAILED, HEALTHY = DeploymentState.DEPLOY_FAILED, DeploymentState.HEALTHY


class _Stage:
    """A deployment of two replicas, and one actor that begins to fail."""

    def __init__(self) -> None:
        self.world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=64.0)),))
        self.world.behaviour = {"app:Bad": "fail", "app:Slow": "hang"}
        self.world.add_router()

    def deploy(self, path: str = V1, **changes: object) -> None:
        self.world.deploy(a_spec(**{"import_path": path, "actors": (CACHE,)} | changes))
        self.world.settle()

    def scale(self, count: int) -> None:
        self.world.change(deploy.scale(self.world.records, KEY, num_replicas=count))
        self.world.settle()

    def actors(self) -> list[GangRecord]:
        return [gang for gang in self.world.actor_gangs() if gang.phase in LIVE]

    def lose(self, actor: GangRecord) -> None:
        """Its next lives fail to start."""
        self.world.behaviour["app:Cache"] = "fail"
        self.world.kill(actor.members[0].replica_id)


def _at_rest(stage: _Stage) -> None:
    stage.lose(stage.actors()[0])


def _rollout(stage: _Stage) -> None:
    stage.deploy(V2, actors=(BAD,))


def _rollout_to_be_held(stage: _Stage) -> None:
    stage.deploy(V2, actors=(BAD,), rollout=HOLD)


def _paused_rollout(stage: _Stage) -> None:
    stage.world.deploy(a_spec(import_path=V2, actors=(BAD,)))
    stage.world.change(deploy.pause(stage.world.records, KEY, paused=True))


def _scaled_to_zero(stage: _Stage) -> None:
    stage.scale(0)
    stage.lose(stage.actors()[0])


def _scaled_to_zero_and_back(stage: _Stage) -> None:
    _scaled_to_zero(stage)
    stage.world.run(30.0)
    assert stage.world.status().state is FAILED
    stage.scale(2)  # It is tried again, and fails again.


def _old_one_in_a_rollout(stage: _Stage) -> None:
    (old,) = stage.actors()
    stage.deploy(V2, actors=(SLOW,))
    stage.lose(old)


def _shared_one_in_a_rollout(stage: _Stage) -> None:
    stage.deploy(actors=(SHARED,))
    stage.world.advance(100.0)
    stage.world.behaviour[V2] = "hang"
    stage.deploy(V2, actors=(SHARED,))
    stage.lose(stage.actors()[-1])


def _new_one_after_the_gate(stage: _Stage) -> None:
    (old,) = stage.actors()
    stage.world.behaviour[V2] = "hang"
    stage.deploy(V2)
    assert {gang.revision for gang in stage.world.gangs()} > {old.revision}
    (new,) = [one for one in stage.actors() if one.gang_id != old.gang_id]
    stage.lose(new)


def _both_revisions(stage: _Stage) -> None:
    (old,) = stage.actors()
    stage.world.deploy(a_spec(import_path=V2, actors=(BAD,)))
    stage.lose(old)


def _with_a_dead_replica(stage: _Stage) -> None:
    stage.world.behaviour[V1] = "hang"
    stage.world.kill(stage.world.ready_ids()[0])
    stage.lose(stage.actors()[0])


CASES = [
    (_at_rest, FAILED, {V1: 2}, RolloutPhase.COMPLETE),
    (_rollout, HEALTHY, {V1: 2}, RolloutPhase.ROLLED_BACK),
    (_rollout_to_be_held, FAILED, {V1: 2}, RolloutPhase.FAILED),
    (_paused_rollout, HEALTHY, {V1: 2}, RolloutPhase.ROLLED_BACK),
    (_scaled_to_zero, FAILED, {}, RolloutPhase.COMPLETE),
    (_scaled_to_zero_and_back, FAILED, {V1: 2}, RolloutPhase.COMPLETE),
    (_old_one_in_a_rollout, FAILED, {V1: 2}, RolloutPhase.PROGRESSING),
    (_shared_one_in_a_rollout, FAILED, {V1: 2}, RolloutPhase.ROLLED_BACK),
    (_new_one_after_the_gate, HEALTHY, {V1: 2}, RolloutPhase.ROLLED_BACK),
    (_both_revisions, FAILED, {V1: 2}, RolloutPhase.ROLLED_BACK),
    (_with_a_dead_replica, FAILED, {V1: 1}, RolloutPhase.COMPLETE),
]


@pytest.mark.parametrize(("happens", "state", "ready", "phase"), CASES, ids=[case[0].__name__[1:] for case in CASES])
def test_from_every_state(
    happens: Callable[[_Stage], None], state: DeploymentState, ready: dict[str, int], phase: RolloutPhase
) -> None:
    stage = _Stage()
    stage.deploy()
    stage.world.advance(100.0)
    stage.world.settle()
    happens(stage)
    stage.world.run(15.0)

    world, status = stage.world, stage.world.status()
    assert (status.state, dict(world.ready_paths())) == (state, ready)
    assert status.rollout is not None
    assert status.rollout.phase is phase
    assert "DEPLOYMENT_ACTOR_FAILED" in {one.reason for one in status.failures}
    assert "actor cache failed 2 times in a row, more than max_restarts = 1" in status.message
    degraded = next(one for one in status.conditions if one.type is ConditionType.DEGRADED)
    assert degraded.status is (state is FAILED)
    if state is FAILED:
        assert isinstance(failure_of("app", status), DeploymentActorFailedError)
        assert "actor cache failed 2 times in a row" in degraded.message

    # Once what was wrong is mended, an operator's word is enough.
    world.behaviour.clear()
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.run(60.0)
    assert world.status().state is HEALTHY
    assert len(world.ready_ids()) == world.record().num_replicas
    assert len(stage.actors()) == 1
