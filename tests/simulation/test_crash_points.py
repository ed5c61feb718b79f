"""A controller is killed before and after each effect of each kind of change: the next one finishes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy, OnMemberFailure, Strategy
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan import deploy
from serve_core.plan.deploy import Change
from serve_core.plan.nodes import drain_node
from serve_core.plan.records import Records
from tests.simulation.cluster import Cluster
from tests.simulation.operating import KEYS
from tests.simulation.rest import unrest
from tests.simulation.wishes import a_spec
from tests.simulation.workload import Workload

KEY = KEYS[0]
PATIENCE_S = 120.0
LONG_ENOUGH_S = 12.0
PAIRS = GangPolicy(size=2, placement=Strategy.SPREAD)
CACHE = ActorSpec(
    name="cache",
    import_path="app:good_cache",
    on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT,
    snapshot_interval_s=1.5,
)
STATE = ActorSpec(name="state", import_path="app:good_state", shared=ActorSharing.DEPLOYMENT)
MENDED = GangPolicy(size=3, on_member_failure=OnMemberFailure.RESTART_REPLICA)

Decide = Callable[[Records], Change]
Act = Callable[["Scene"], None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What serves, what happens to it, and which errors callers may get of it."""

    act: Act
    before: tuple[DeploymentSpec, ...] = (a_spec(KEY.deployment, "app:good_1", num_replicas=3),)
    errors: frozenset[str] = field(default_factory=frozenset)


def _spec(import_path: str, num_replicas: int, gang: GangPolicy) -> DeploymentSpec:
    return a_spec(KEY.deployment, import_path, num_replicas=num_replicas, gang=gang)


def _with_actors(import_path: str) -> DeploymentSpec:
    return a_spec(KEY.deployment, import_path, actors=(CACHE, STATE))


def _deploys(*specs: DeploymentSpec) -> Decide:
    application = ApplicationSpec(name=KEY.application, ingress=KEY.deployment, deployments=specs)
    return partial(deploy.deploy, spec=application, now=0.0)


def _asks(decide: Decide) -> Act:
    return lambda scene: scene.ask(decide)


def _kills(rank: int) -> Act:
    def kill(scene: Scene) -> None:
        gang = scene.cluster.store.records.gangs_of(KEY)[0]
        process = scene.cluster.backend.process_of(gang.members[rank].replica_id)
        assert process is not None
        process.faults.append("killed")
        process.end(-9)

    return kill


def _kills_actor(scene: Scene) -> None:
    gangs = scene.cluster.store.records.actor_gangs_of(KEY)
    gang = next(gang for gang in gangs if gang.actor is not None and gang.actor.name == CACHE.name)
    process = scene.cluster.backend.process_of(gang.members[0].replica_id)
    assert process is not None
    process.faults.append("killed")
    process.end(-9)


def _drains(scene: Scene) -> None:
    node_id = scene.cluster.store.records.gangs_of(KEY)[0].members[0].node_id
    scene.ask(partial(drain_node, known=(node_id,), node_id=node_id, now=scene.cluster.engine.now))


LOSES = frozenset({"ReplicaDiedError", "GangChangedError", "SlotFencedError"})
STEPS: dict[str, Step] = {
    "rollout": Step(act=_asks(_deploys(a_spec(KEY.deployment, "app:good_2", num_replicas=3)))),
    "rollout that fails": Step(act=_asks(_deploys(a_spec(KEY.deployment, "app:bad_2", num_replicas=3)))),
    "scale-down": Step(act=_asks(partial(deploy.scale, key=KEY, num_replicas=1))),
    "delete": Step(act=_asks(partial(deploy.delete, application=KEY.application))),
    "start of gangs": Step(act=_asks(_deploys(_spec("app:good_1", 4, PAIRS))), before=()),
    "restart of a gang": Step(act=_kills(1), before=(_spec("app:good_1", 4, PAIRS),), errors=LOSES),
    "repair of a gang": Step(act=_kills(2), before=(_spec("app:good_1", 6, MENDED),), errors=LOSES),
    "rollout of gangs": Step(
        act=_asks(_deploys(_spec("app:good_2", 4, PAIRS))), before=(_spec("app:good_1", 4, PAIRS),)
    ),
    "switch to gangs": Step(act=_asks(_deploys(_spec("app:good_2", 4, PAIRS)))),
    "start of actors": Step(act=_asks(_deploys(_with_actors("app:good_1"))), before=()),
    "restart of an actor": Step(act=_kills_actor, before=(_with_actors("app:good_1"),)),
    "rollout with actors": Step(act=_asks(_deploys(_with_actors("app:good_2"))), before=(_with_actors("app:good_1"),)),
    "delete with actors": Step(
        act=_asks(partial(deploy.delete, application=KEY.application)), before=(_with_actors("app:good_1"),)
    ),
    "drain of a node": Step(act=_drains, before=(_spec("app:good_1", 4, GangPolicy(size=2)),)),
}


class Scene:
    """A deployment that serves under a light load, and one change of it."""

    def __init__(self, step: Step) -> None:
        self.cluster = Cluster(1, cpus=(8.0, 8.0), calm=False)
        self.cluster.start_controller()
        self.cluster.add_router()
        self.cluster.add_router()
        self.workload = Workload(self.cluster, (KEY,), per_second=3.0)
        if step.before:
            self.ask(_deploys(*step.before))
        self.cluster.engine.run(self.cluster.engine.now + 5.0)
        if step.before:
            self.workload.begin()
        self.cluster.engine.run(self.cluster.engine.now + 1.0)
        self.before = len(self.cluster.crashes.names)
        self._act = step.act

    def ask(self, decide: Decide) -> None:
        """Asks until a controller has recorded it: whoever asks tries again when there is no answer."""
        controller = self.cluster.controller
        if controller is None or not controller.change(decide):
            self.cluster.engine.later(0.1, partial(self.ask, decide))

    def play(self) -> None:
        """Changes it, and waits for rest."""
        engine = self.cluster.engine
        self._act(self)
        give_up_at = engine.now + PATIENCE_S
        engine.run(engine.now + LONG_ENOUGH_S)
        self.workload.stop()
        while (why := unrest(self.cluster)) and engine.now < give_up_at:
            engine.run(engine.now + 1.0)
            self.cluster.checks.tick()
        assert not why, "\n".join([*self.cluster.engine.story, why])

    @property
    def effects(self) -> list[str]:
        """What was done for the change."""
        return self.cluster.crashes.names[self.before :]


def _what_runs(scene: Scene) -> list[tuple[str, str, int, bool]]:
    gangs = scene.cluster.store.records.gangs.values()
    drained = scene.cluster.store.records.nodes
    return sorted(
        (
            gang.revision,
            gang.actor.name if gang.actor is not None else "",
            len(gang.members),
            any(member.node_id in drained for member in gang.members),
        )
        for gang in gangs
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_controller_may_die_at_any_effect(name: str, after: bool) -> None:
    step = STEPS[name]
    whole = Scene(step)
    whole.play()
    assert len(whole.effects) >= 5
    for number in range(1, len(whole.effects) + 1):
        scene = Scene(step)
        scene.cluster.crashes.arm(scene.before + number, after=after)
        scene.play()
        assert scene.cluster.lives == 2, f"nobody died at {number}"
        assert _what_runs(scene) == _what_runs(whole)
        assert not ({"ReplicaDiedError", "NoSlotInTimeError"} - step.errors) & set(scene.workload.outcomes.count)
