"""A controller is killed before and after each effect of a rollout, a scale-down and a delete: the next one finishes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from serve_core.model.spec import ApplicationSpec
from serve_core.plan import deploy
from serve_core.plan.deploy import Change
from serve_core.plan.records import Records
from tests.simulation.cluster import Cluster
from tests.simulation.operating import KEYS
from tests.simulation.rest import unrest
from tests.simulation.wishes import a_spec
from tests.simulation.workload import Workload

KEY = KEYS[0]
REPLICAS = 3
PATIENCE_S = 120.0
LONG_ENOUGH_S = 20.0

Decide = Callable[[Records], Change]


def _deploys(import_path: str) -> Decide:
    spec = a_spec(KEY.deployment, import_path, num_replicas=REPLICAS)
    application = ApplicationSpec(name=KEY.application, ingress=KEY.deployment, deployments=(spec,))
    return partial(deploy.deploy, spec=application, now=0.0)


STEPS: dict[str, Decide] = {
    "rollout": _deploys("app:good_2"),
    "rollout that fails": _deploys("app:bad_2"),
    "scale-down": partial(deploy.scale, key=KEY, num_replicas=1),
    "delete": partial(deploy.delete, application=KEY.application),
}


class Scene:
    """A deployment that serves under a light load, and one change of it."""

    def __init__(self, decide: Decide) -> None:
        self.cluster = Cluster(1, cpus=(8.0,), calm=False)
        self.cluster.start_controller()
        self.cluster.add_router()
        self.cluster.add_router()
        self.workload = Workload(self.cluster, (KEY,), per_second=3.0)
        self.ask(_deploys("app:good_1"))
        self.cluster.engine.run(self.cluster.engine.now + 5.0)
        self.workload.begin()
        self.cluster.engine.run(self.cluster.engine.now + 1.0)
        self.before = len(self.cluster.crashes.names)
        self._decide = decide

    def ask(self, decide: Decide) -> None:
        """Asks until a controller has recorded it: whoever asks tries again when there is no answer."""
        controller = self.cluster.controller
        if controller is None or not controller.change(decide):
            self.cluster.engine.later(0.1, partial(self.ask, decide))

    def play(self) -> None:
        """Changes it, and waits for rest."""
        engine = self.cluster.engine
        self.ask(self._decide)
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


def _good_runs(scene: Scene) -> str:
    return next((gang.revision for gang in scene.cluster.store.records.gangs.values()), "")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_controller_may_die_at_any_effect(name: str, after: bool) -> None:
    whole = Scene(STEPS[name])
    whole.play()
    assert len(whole.effects) >= 5
    for number in range(1, len(whole.effects) + 1):
        scene = Scene(STEPS[name])
        scene.cluster.crashes.arm(scene.before + number, after=after)
        scene.play()
        assert scene.cluster.lives == 2, f"nobody died at {number}"
        assert _good_runs(scene) == _good_runs(whole)
        assert not {"ReplicaDiedError", "NoSlotInTimeError"} & set(scene.workload.outcomes.count)
