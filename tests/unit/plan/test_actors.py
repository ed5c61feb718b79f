"""Deployment actors: there before any replica, one life at a time, and gone after the last."""

from __future__ import annotations

from serve_core.model.actor import ActorEndpoint
from serve_core.model.ids import DeploymentKey, NodeId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import DeploymentState
from serve_core.plan import deploy
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.actor_world import FAILS, HANGS, deployed, life_of, serving
from tests.unit.plan.world import KEY, World, a_spec, an_actor


def test_replicas_start_when_every_actor_is_ready() -> None:
    world = deployed(an_actor("cache"), an_actor("tree", import_path=HANGS))
    world.settle()
    assert [gang.phase for gang in world.lives("cache")] == [ReplicaPhase.READY]
    assert [gang.phase for gang in world.lives("tree")] == [ReplicaPhase.STARTING]
    assert world.gangs() == []
    assert world.status().message.endswith("waits for actor tree to be ready")
    world.behaviour[HANGS] = "ready"
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_is_no_replica() -> None:
    world = serving()
    status = world.status()
    assert (status.num_replicas, status.ready_replicas, len(status.replicas)) == (2, 2, 2)
    assert world.table.replica_ids == set(world.ready_ids())
    assert life_of(world).members[0].replica_id not in world.table.replica_ids
    assert world.record().rollout is not None


def test_replicas_are_told_where_their_actors_are() -> None:
    world = serving()
    member_id = life_of(world).members[0].replica_id
    process = world.processes[member_id]
    expected = (ActorEndpoint(name="cache", incarnation=1, address=f"127.0.0.1:{process.pid}", replica_id=member_id),)
    assert [world.directories[replica_id] for replica_id in world.ready_ids()] == [expected, expected]


def test_a_replica_that_comes_back_is_told_again() -> None:
    world = serving()
    replica_id = world.ready_ids()[0]
    del world.directories[replica_id]
    world.lose_attach(replica_id)
    world.settle()
    assert world.directories[replica_id][0].incarnation == 1


def test_a_first_deploy_whose_actor_fails_is_given_up_with_its_traceback() -> None:
    world = deployed(an_actor("good"), an_actor("bad", import_path=FAILS, max_restarts=2))
    world.run(30.0)
    status = world.status()
    assert status.state is DeploymentState.DEPLOY_FAILED
    assert "actor bad failed 3 times in a row" in status.message
    terminal = world.record().terminal
    assert terminal is not None
    assert (terminal.reason, terminal.traceback) == ("DEPLOYMENT_ACTOR_FAILED", "Traceback")
    assert [life.incarnation for life in world.lives("good")] == [1]
    assert world.lives("bad") == []
    starts = [action for action in world.done if getattr(action, "is_actor", False)]
    assert [action.spec.import_path for action in starts].count(FAILS) == 3  # type: ignore[union-attr]


def test_it_is_tried_again_when_it_is_deployed_again() -> None:
    world = deployed(an_actor(import_path=FAILS, max_restarts=0))
    world.run(10.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    world.behaviour[FAILS] = "ready"
    world.deploy(a_spec(actors=(an_actor(import_path=FAILS, max_restarts=0),)))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert life_of(world).incarnation == 2


def test_scaled_to_zero_actors_stay() -> None:
    world = serving()
    first = life_of(world)
    for count in (0, 2):
        world.change(deploy.scale(world.records, KEY, num_replicas=count))
        world.settle()
        assert life_of(world) == first
        assert len(world.ready_ids()) == count


def test_settings_that_change_in_place_leave_actors_alone() -> None:
    world = serving()
    first = life_of(world)
    world.deploy(a_spec(actors=(an_actor(),), max_ongoing_requests=17, metadata={"a": "b"}))
    world.settle()
    assert life_of(world) == first


def test_the_drained_replicas_of_a_removed_deployment_still_have_their_actors() -> None:
    world = serving()
    process = world.processes[world.ready_ids()[0]]
    process.load = Load(1, 0, 5)
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert [gang.phase for gang in world.gangs()] == [ReplicaPhase.DRAINING]
    assert life_of(world).phase is ReplicaPhase.READY
    process.load = Load(0, 0, 5)
    world.settle()
    assert (dict(world.records.deployments), dict(world.records.gangs), world.processes) == ({}, {}, {})
    assert world.placements == set()


def test_no_router_is_waited_for_when_an_actor_goes() -> None:
    world = serving(num_replicas=0)
    world.routers[RouterId("r1")].stuck = True
    world.deploy(a_spec(import_path="app:v2", num_replicas=0))
    world.settle()
    assert world.actor_gangs() == []


def test_actors_of_the_same_name_have_nothing_to_do_with_each_other() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=64.0)),))
    world.add_router()
    world.deploy(a_spec(actors=(an_actor(),)), a_spec(name="other", actors=(an_actor(),)))
    world.settle()
    other = DeploymentKey("app", "other")
    (theirs,) = world.actor_gangs(other)
    world.kill(life_of(world).members[0].replica_id)
    world.settle()
    assert (life_of(world).incarnation, world.actor_gangs(other)) == (2, [theirs])
    world.deploy(a_spec(actors=(an_actor(),)))
    world.settle()
    assert world.actor_gangs(other) == []
    assert life_of(world).phase is ReplicaPhase.READY
