"""How many start at once, and how often one was started in its place."""

from __future__ import annotations

from serve_core.model.ids import DeploymentKey, NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import RolloutPolicy
from serve_core.plan import deploy
from serve_core.plan.lifecycle import STARTING
from serve_core.plan.observed import NodeObserved
from serve_core.plan.policy import Policy
from tests.unit.plan.world import KEY, World, a_spec

TWO_NODES = (
    NodeObserved(node_id=NodeId("n0"), total=Resources(cpus=8.0)),
    NodeObserved(node_id=NodeId("n1"), total=Resources(cpus=8.0)),
)


def _starting(world: World, node: str = "") -> int:
    return sum(
        gang.phase in STARTING and node in ("", member.node_id)
        for gang in world.records.gangs.values()
        for member in gang.members
    )


def test_no_more_of_a_deployment_than_it_says() -> None:
    world = World(nodes=TWO_NODES)
    world.add_router()
    world.deploy(a_spec(num_replicas=7, rollout=RolloutPolicy(max_concurrent_starts=2)))
    most = 0
    for _ in world.steps():
        most = max(most, _starting(world))
    assert most == 2
    assert len(world.ready_ids()) == 7


def test_no_more_on_a_node_than_its_limit_of_all_deployments() -> None:
    world = World(nodes=TWO_NODES, policy=Policy(max_concurrent_starts_per_node=2))
    world.add_router()
    world.deploy(a_spec(num_replicas=5), a_spec(name="other", num_replicas=5))
    most = {"n0": 0, "n1": 0}
    for _ in world.steps():
        for node in most:
            most[node] = max(most[node], _starting(world, node))
    assert most == {"n0": 2, "n1": 2}
    assert len(world.ready_ids()) == 5
    assert len(world.ready_ids(DeploymentKey("app", "other"))) == 5


def test_who_waits_for_a_turn_waits_for_no_room() -> None:
    world = World(policy=Policy(max_concurrent_starts_per_node=1))
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=2))
    world.settle()
    status = world.status()
    assert [one.reason for one in status.conditions] == ["NoReplicaReady", "Starting", "AsWanted"]
    assert world.plans[KEY].blocked, "so that it is planned again when a turn is free"
    assert "WaitingForResources" not in world.told()
    world.behaviour.clear()
    world.step()
    assert world.plans[KEY].frees_starts
    world.settle()
    assert len(world.ready_ids()) == 2


def test_restarts_are_counted_in_each_place() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=3))
    world.settle()
    for expected in (1, 2, 3):
        world.run(60.0, step_s=5.0)
        world.kill(max(world.gangs(), key=lambda gang: gang.restarts).members[0].replica_id)
        world.settle()
        assert sorted(gang.restarts for gang in world.gangs(ReplicaPhase.READY)) == [0, 0, expected]
    assert sorted(one.restarts for one in world.status().replicas) == [0, 0, 3]


def test_restarts_survive_a_controller_and_a_backoff_and_failed_starts() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=2))
    world.settle()
    world.run(60.0, step_s=5.0)
    world.behaviour["app:v1"] = "fail"
    world.kill(world.ready_ids()[0])
    while len(world.record().failures) < 4:
        world.settle()
        world.advance(0.5)
    world.restart_controller()
    world.reconnect_routers()
    world.behaviour.clear()
    world.run(30.0)
    assert sorted(gang.restarts for gang in world.gangs()) == [0, 4]
    assert world.record().vacant_places == ()


def test_what_was_lost_of_one_revision_is_not_counted_for_another() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    world.behaviour["app:v1"] = "fail"
    world.run(60.0, step_s=5.0)
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.record().vacant_places
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.run(60.0, step_s=5.0)
    assert {gang.restarts for gang in world.gangs(ReplicaPhase.READY)} == {0}


def test_another_revision_begins_at_nothing() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    world.run(60.0, step_s=5.0)
    world.kill(world.ready_ids()[0])
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.settle()
    assert [gang.restarts for gang in world.gangs()] == [0]


def test_a_scale_down_closes_places() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=3, max_start_failures=50))
    world.settle()
    world.advance(0.1)
    assert world.record().vacant_places
    world.change(deploy.scale(world.records, KEY, num_replicas=0))
    world.settle()
    assert world.record().vacant_places == ()
