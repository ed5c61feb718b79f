"""Single changes of a deployment that serves, each of which a controller may die over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import GangPolicy, OnMemberFailure, Strategy
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan import deploy
from serve_core.plan.deploy import Change
from serve_core.plan.nodes import drain_node
from serve_core.plan.records import GangRecord, Records
from tests.simulation.operating import KEYS
from tests.simulation.wishes import a_spec

if TYPE_CHECKING:
    from tests.simulation.scene import Scene

KEY = KEYS[0]
PAIRS = GangPolicy(size=2, placement=Strategy.SPREAD)
SMALL = Resources(cpus=0.5)
CACHE = ActorSpec(
    name="cache",
    import_path="app:good_cache",
    resources=SMALL,
    on_failure=ActorOnFailure.RESTART_FROM_SNAPSHOT,
    snapshot_interval_s=1.5,
)
STATE = ActorSpec(name="state", import_path="app:good_state", resources=SMALL, shared=ActorSharing.DEPLOYMENT)
BASE = ActorSpec(name="base", import_path="app:good_base", resources=SMALL, on_failure=ActorOnFailure.RESTART_REPLICAS)
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


def _with_actors(import_path: str, *actors: ActorSpec) -> DeploymentSpec:
    return a_spec(KEY.deployment, import_path, actors=actors or (CACHE, STATE))


def deploys(*specs: DeploymentSpec) -> Decide:
    """Makes the application be these deployments."""
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


def _actor_of(scene: Scene) -> GangRecord:
    """What runs the first actor that there is."""
    return scene.cluster.store.records.actor_gangs_of(KEY)[0]


def _kills_actor(scene: Scene) -> None:
    process = scene.cluster.backend.process_of(_actor_of(scene).members[0].replica_id)
    assert process is not None
    process.faults.append("killed")
    process.end(-9)


def _autoscales(scene: Scene) -> None:
    """The deployment wants more for the same calls, and then there are none any more."""
    scene.ask(deploys(_wants(0.01)))
    scene.cluster.engine.later(6.0, scene.workload.stop)


def _drains(scene: Scene) -> None:
    _drain_node_of(scene, scene.cluster.store.records.gangs_of(KEY)[0])


def _drains_actor(scene: Scene) -> None:
    _drain_node_of(scene, _actor_of(scene))


def _drain_node_of(scene: Scene, gang: GangRecord) -> None:
    node_id = gang.members[0].node_id
    scene.ask(partial(drain_node, known=(node_id,), node_id=node_id, now=scene.cluster.engine.now))


def _wants(target: float) -> DeploymentSpec:
    """What scales by itself in pairs, by this target."""
    policy = AutoscalingPolicy(
        min_replicas=2,
        max_replicas=6,
        target_ongoing_requests=target,
        look_back_s=1.0,
        upscale_delay_s=0.0,
        downscale_delay_s=2.0,
    )
    return replace(_spec("app:good_1", 2, PAIRS), autoscaling=policy)


_GANGS_WITH_ACTOR = a_spec(KEY.deployment, "app:good_1", num_replicas=2, gang=PAIRS, actors=(BASE,))
LOSES = frozenset({"ReplicaDiedError", "GangChangedError", "SlotFencedError"})
STEPS: dict[str, Step] = {
    "rollout": Step(act=_asks(deploys(a_spec(KEY.deployment, "app:good_2", num_replicas=3)))),
    "rollout that fails": Step(act=_asks(deploys(a_spec(KEY.deployment, "app:bad_2", num_replicas=3)))),
    "scale-down": Step(act=_asks(partial(deploy.scale, key=KEY, num_replicas=1))),
    "delete": Step(act=_asks(partial(deploy.delete, application=KEY.application))),
    "start of gangs": Step(act=_asks(deploys(_spec("app:good_1", 4, PAIRS))), before=()),
    "restart of a gang": Step(act=_kills(1), before=(_spec("app:good_1", 4, PAIRS),), errors=LOSES),
    "repair of a gang": Step(act=_kills(2), before=(_spec("app:good_1", 6, MENDED),), errors=LOSES),
    "rollout of gangs": Step(
        act=_asks(deploys(_spec("app:good_2", 4, PAIRS))), before=(_spec("app:good_1", 4, PAIRS),)
    ),
    "switch to gangs": Step(act=_asks(deploys(_spec("app:good_2", 4, PAIRS)))),
    "start of actors": Step(act=_asks(deploys(_with_actors("app:good_1"))), before=()),
    "restart of an actor": Step(act=_kills_actor, before=(_with_actors("app:good_1"),)),
    "rollout with actors": Step(act=_asks(deploys(_with_actors("app:good_2"))), before=(_with_actors("app:good_1"),)),
    "delete with actors": Step(
        act=_asks(partial(deploy.delete, application=KEY.application)), before=(_with_actors("app:good_1"),)
    ),
    "rollout whose actor fails": Step(
        act=_asks(deploys(_with_actors("app:good_2", replace(STATE, import_path="app:bad_state", max_restarts=1)))),
        before=(_with_actors("app:good_1", STATE),),
    ),
    "drain of an actor's node": Step(act=_drains_actor, before=(_with_actors("app:good_1", CACHE),)),
    "start of gangs with an actor": Step(act=_asks(deploys(_GANGS_WITH_ACTOR)), before=()),
    "death of an actor that gangs begin with": Step(act=_kills_actor, before=(_GANGS_WITH_ACTOR,)),
    "autoscaling up and down": Step(act=_autoscales, before=(_wants(100.0),)),
    "drain of a node": Step(act=_drains, before=(_spec("app:good_1", 4, GangPolicy(size=2)),)),
}
