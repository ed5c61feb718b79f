"""Deployment actors: there before any replica, one life at a time, and gone after the last."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from serve_core.errors import DeploymentActorFailedError
from serve_core.model.actor import ActorEndpoint, ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import DeploymentKey, NodeId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState, RolloutPhase
from serve_core.plan import deploy, events
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.nodes import drain_node
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord
from serve_core.plan.revision import revision_id
from serve_core.rollouts import failure_of
from tests.unit.plan.world import KEY, World, a_spec, an_actor

HANGS, FAILS = "app:Hangs", "app:Fails"


def _world(*actors: ActorSpec, **changes: object) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=64.0)),))
    world.behaviour = {HANGS: "hang", FAILS: "fail"}
    world.add_router()
    world.deploy(a_spec(actors=actors or (an_actor(),), **changes))
    return world


def _serving(*actors: ActorSpec, **changes: object) -> World:
    world = _world(*actors, **changes)
    world.settle()
    world.advance(100.0)
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    return world


def _live(world: World, spec: DeploymentSpec) -> int:
    return sum(gang.revision == revision_id(spec) for gang in world.gangs() if gang.phase in LIVE)


def _one(world: World, name: str = "cache") -> GangRecord:
    (gang,) = [gang for gang in world.lives(name) if gang.phase in LIVE]
    return gang


def _v2(*actors: ActorSpec, **changes: object) -> DeploymentSpec:
    return a_spec(import_path="app:v2", actors=actors or (an_actor(),), **changes)


def test_replicas_start_when_every_actor_is_ready() -> None:
    world = _world(an_actor("cache"), an_actor("tree", import_path=HANGS))
    world.settle()
    assert [gang.phase for gang in world.lives("cache")] == [ReplicaPhase.READY]
    assert [gang.phase for gang in world.lives("tree")] == [ReplicaPhase.STARTING]
    assert world.gangs() == []
    assert world.status().message.endswith("waits for actor tree to be ready")
    world.behaviour[HANGS] = "ready"
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_is_no_replica() -> None:
    world = _serving()
    status = world.status()
    assert (status.num_replicas, status.ready_replicas, len(status.replicas)) == (2, 2, 2)
    assert world.table.replica_ids == set(world.ready_ids())
    assert _one(world).members[0].replica_id not in world.table.replica_ids
    assert world.record().rollout is not None


def test_replicas_are_told_where_their_actors_are() -> None:
    world = _serving()
    member_id = _one(world).members[0].replica_id
    process = world.processes[member_id]
    expected = (ActorEndpoint(name="cache", incarnation=1, address=f"127.0.0.1:{process.pid}", replica_id=member_id),)
    assert [world.directories[replica_id] for replica_id in world.ready_ids()] == [expected, expected]


def test_a_replica_that_comes_back_is_told_again() -> None:
    world = _serving()
    replica_id = world.ready_ids()[0]
    del world.directories[replica_id]
    world.lose_attach(replica_id)
    world.settle()
    assert world.directories[replica_id][0].incarnation == 1


def test_a_new_revision_has_its_own_and_the_old_one_goes_after_its_last_replica() -> None:
    world = _serving()
    first = _one(world)
    v2 = _v2()
    world.deploy(v2)
    for _ in world.steps():
        old = [gang for gang in world.gangs() if gang.revision == first.revision]
        if old:
            assert world.records.gangs[first.gang_id].phase is ReplicaPhase.READY
    assert world.ready_paths() == {"app:v2": 2}
    assert _one(world).revision == revision_id(v2)
    assert [actor.key.scope for actor in world.record().actors] == [revision_id(v2)]
    assert len(world.processes) == len(world.placements) == 3


@pytest.mark.parametrize("unavailable", ["0", "1", "100%"])
@pytest.mark.parametrize("count", [1, 4])
def test_the_old_revision_keeps_its_whole_capacity_until_the_new_actors_are_there(count: int, unavailable: str) -> None:
    policy = RolloutPolicy(max_unavailable=Share.parse(unavailable) or Share(0))
    world = _serving(num_replicas=count, rollout=policy)
    world.deploy(_v2(an_actor(import_path=HANGS), num_replicas=count, rollout=policy))
    for _ in world.steps():
        assert world.ready_paths() == {"app:v1": count}
    world.behaviour[HANGS] = "ready"
    world.settle()
    assert world.ready_paths() == {"app:v2": count}


def test_actors_that_never_start_roll_the_change_back() -> None:
    world = _serving(num_replicas=1)
    first = _one(world)
    world.deploy(_v2(an_actor(import_path=HANGS, max_restarts=1, start_deadline_s=3.0), num_replicas=1))
    for _ in range(100):
        world.settle()
        assert world.ready_paths() == {"app:v1": 1}
        world.advance(1.0)
    status = world.status()
    assert status.state is DeploymentState.HEALTHY
    assert status.rollout is not None
    assert status.rollout.phase is RolloutPhase.ROLLED_BACK
    assert status.rollout.failure is not None
    assert status.rollout.failure.reason == "DEPLOYMENT_ACTOR_FAILED"
    assert "more than max_restarts = 1" in status.rollout.failure.message
    assert [gang.gang_id for gang in world.actor_gangs()] == [first.gang_id]
    assert len(world.record().actors) == 1


def test_a_first_deploy_whose_actor_fails_is_given_up_with_its_traceback() -> None:
    world = _world(an_actor("good"), an_actor("bad", import_path=FAILS, max_restarts=2))
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
    world = _world(an_actor(import_path=FAILS, max_restarts=0))
    world.run(10.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    world.behaviour[FAILS] = "ready"
    world.deploy(a_spec(actors=(an_actor(import_path=FAILS, max_restarts=0),)))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert _one(world).incarnation == 2


def test_starts_that_fail_are_tried_later_and_later() -> None:
    world = _world(an_actor(import_path=FAILS, max_restarts=4))
    times: list[float] = []
    while world.record().terminal is None:
        known = len([action for action in world.done if getattr(action, "is_actor", False)])
        if known > len(times):
            times.append(world.now)
        if not world.step():
            world.advance(0.05)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 4
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_only_the_lost_one_begins_anew_at_once_and_everybody_is_told() -> None:
    world = _serving(an_actor("cache"), an_actor("tree"))
    tree, lost = _one(world, "tree"), _one(world, "cache")
    replicas = world.ready_ids()
    world.behaviour["app:Cache"] = "hang"
    world.kill(lost.members[0].replica_id)
    world.step()
    status = world.status()
    assert status.state is DeploymentState.DEGRADED
    assert "incarnation 1 of actor cache has ended: " in status.message
    assert "signal 9" in status.message
    assert [one.reason for one in status.conditions if one.status][-1] == "ActorLost"
    world.settle()
    told = world.directories[replicas[0]][0]
    assert (told.incarnation, told.address) == (2, "")
    assert told.failure is not None
    world.behaviour["app:Cache"] = "ready"
    world.settle()
    status = world.status()
    assert status.state is DeploymentState.HEALTHY
    assert world.directories[replicas[1]][0].address
    assert (_one(world, "cache").incarnation, _one(world, "tree").gang_id) == (2, tree.gang_id)
    assert world.ready_ids() == replicas


def test_the_old_revisions_actor_that_is_lost_in_a_rollout_is_in_the_headline() -> None:
    world = _serving()
    first = _one(world)
    world.deploy(_v2(an_actor(import_path=HANGS)))
    world.settle()
    world.behaviour["app:Cache"] = "hang"
    world.kill(first.members[0].replica_id)
    world.settle()
    status = world.status()
    assert status.state is DeploymentState.UPDATING
    assert status.message.startswith("incarnation 1 of actor cache has ended: ")
    assert status.message.endswith("waits for actor cache to be ready")
    assert next(one.reason for one in status.conditions if one.type is ConditionType.DEGRADED) == "ActorLost"
    world.behaviour["app:Cache"] = "ready"
    world.settle()
    assert "has ended" not in world.status().message


def test_nothing_else_waits_while_an_actor_is_not_there() -> None:
    world = _serving(num_replicas=4)
    world.behaviour["app:Cache"] = "hang"
    world.kill(_one(world).members[0].replica_id)
    world.kill(world.ready_ids()[0])
    world.settle()
    assert len(world.ready_ids()) == 4
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert len(world.ready_ids()) == 1


def test_nothing_else_waits_while_the_actors_of_another_revision_start() -> None:
    world = _serving(num_replicas=4)
    world.deploy(_v2(an_actor(import_path=HANGS), num_replicas=4))
    world.settle()
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.ready_paths() == {"app:v1": 4}
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert world.ready_paths() == {"app:v1": 1}
    world.change(deploy.scale(world.records, KEY, num_replicas=3))
    world.settle()
    assert world.ready_paths() == {"app:v1": 3}


def test_an_actor_that_does_not_come_back_is_given_up_and_said_so_while_replicas_go_on() -> None:
    world = _serving(an_actor(max_restarts=2))
    world.behaviour["app:Cache"] = "fail"
    world.kill(_one(world).members[0].replica_id)
    world.run(30.0)
    status = world.status()
    assert status.state is DeploymentState.DEPLOY_FAILED
    assert "actor cache failed 3 times in a row" in status.message
    degraded = next(one for one in status.conditions if one.type == "Degraded")
    assert (degraded.status, degraded.reason) == (True, "DEPLOYMENT_ACTOR_FAILED")
    replicas = world.ready_ids()
    assert world.directories[replicas[0]][0].given_up
    assert status.failures[0].reason == "DEPLOYMENT_ACTOR_FAILED"
    assert isinstance(failure_of("app", status), DeploymentActorFailedError)
    # What serves goes on as ever.
    world.kill(replicas[0])
    world.settle()
    assert len(world.ready_ids()) == 2
    world.behaviour["app:Cache"] = "ready"
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert not world.directories[world.ready_ids()[0]][0].given_up


@pytest.mark.parametrize("how", ["scale", "deploy", "resume"])
def test_what_an_operator_does_lets_it_be_tried_again(how: str) -> None:
    world = _serving(an_actor(max_restarts=0))
    world.kill(_one(world).members[0].replica_id)
    world.run(5.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    if how == "scale":
        world.change(deploy.scale(world.records, KEY, num_replicas=2))
    elif how == "deploy":
        world.deploy(a_spec(actors=(an_actor(max_restarts=0),)))
    else:
        world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert _one(world).incarnation == 2


def test_a_calm_time_ends_a_series_of_failures() -> None:
    world = _serving(an_actor(max_restarts=1))
    for _ in range(5):
        world.kill(_one(world).members[0].replica_id)
        world.run(world.policy.stable_after_s + 1.0)
        assert world.record().actors[0].failures == 0
    assert world.record().actors[0].restarts == 5
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_that_ends_again_and_again_is_given_up() -> None:
    world = _serving(an_actor(max_restarts=2))
    for _ in range(3):
        world.kill(_one(world).members[0].replica_id)
        world.run(5.0)
    assert world.lives("cache") == []
    assert world.status().state is DeploymentState.DEPLOY_FAILED


def test_an_ill_actor_is_drained_before_the_next_begins() -> None:
    world = _serving()
    first = _one(world)
    process = world.processes[first.members[0].replica_id]
    process.healthy = False
    process.load = Load(1, 0, 5)
    world.report(first.members[0].replica_id)
    world.settle()
    assert [(life.incarnation, life.phase) for life in world.lives("cache")] == [(1, ReplicaPhase.DRAINING)]
    process.load = Load(0, 0, 5)
    world.settle()
    assert [(life.incarnation, life.phase) for life in world.lives("cache")] == [(2, ReplicaPhase.READY)]


def test_one_that_is_not_heard_of_is_ended_before_the_next_begins() -> None:
    world = _serving()
    first = _one(world).members[0].replica_id
    world.processes[first].silent = True
    world.run(30.0)
    assert first not in world.processes
    assert _one(world).incarnation == 2


def test_one_that_misses_heartbeats_is_told_of_before_it_is_given_up() -> None:
    world = _serving()
    first = _one(world).members[0].replica_id
    world.processes[first].silent = True
    world.run(5.0)
    status = world.status()
    assert status.state is DeploymentState.DEGRADED
    assert "incarnation 1 of actor cache: " in status.message
    assert "heartbeats" in status.message
    world.processes[first].silent = False
    world.run(1.0)
    assert world.status().state is DeploymentState.HEALTHY
    assert _one(world).members[0].replica_id == first
    assert [event.reason for event in world.events if event.reason in ("ActorSuspect", "ActorBack")] == [
        "ActorSuspect",
        "ActorBack",
    ]


def test_scaled_to_zero_actors_stay() -> None:
    world = _serving()
    first = _one(world)
    for count in (0, 2):
        world.change(deploy.scale(world.records, KEY, num_replicas=count))
        world.settle()
        assert _one(world) == first
        assert len(world.ready_ids()) == count


def test_settings_that_change_in_place_leave_actors_alone() -> None:
    world = _serving()
    first = _one(world)
    world.deploy(a_spec(actors=(an_actor(),), max_ongoing_requests=17, metadata={"a": "b"}))
    world.settle()
    assert _one(world) == first


def test_the_same_description_keeps_actors_and_a_changed_one_replaces_only_what_changed() -> None:
    shared = an_actor("tree", shared=ActorSharing.DEPLOYMENT)
    world = _serving(an_actor("cache"), shared)
    cache, tree = _one(world, "cache"), _one(world, "tree")
    world.deploy(a_spec(actors=(an_actor("cache"), shared)))
    world.settle()
    assert (_one(world, "cache"), _one(world, "tree")) == (cache, tree)
    world.deploy(_v2(an_actor("cache"), shared))
    world.settle()
    assert _one(world, "cache").gang_id != cache.gang_id
    assert _one(world, "tree").gang_id == tree.gang_id
    changed = replace(shared, import_path="app:Tree2")
    world.deploy(_v2(an_actor("cache"), changed))
    world.settle()
    assert _one(world, "tree").gang_id != tree.gang_id
    assert len(world.actor_gangs()) == len(world.record().actors) == 2


def test_actors_are_added_and_removed_by_a_deploy() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec())
    world.settle()
    world.deploy(_v2())
    world.settle()
    assert _one(world).phase is ReplicaPhase.READY
    world.deploy(a_spec(import_path="app:v3"))
    world.settle()
    assert (world.actor_gangs(), world.record().actors) == ([], ())
    assert len(world.processes) == 2


def test_the_drained_replicas_of_a_removed_deployment_still_have_their_actors() -> None:
    world = _serving()
    process = world.processes[world.ready_ids()[0]]
    process.load = Load(1, 0, 5)
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert [gang.phase for gang in world.gangs()] == [ReplicaPhase.DRAINING]
    assert _one(world).phase is ReplicaPhase.READY
    process.load = Load(0, 0, 5)
    world.settle()
    assert (dict(world.records.deployments), dict(world.records.gangs), world.processes) == ({}, {}, {})
    assert world.placements == set()


def test_an_actor_that_is_lost_while_its_replicas_finish_begins_anew_also_in_a_removal() -> None:
    world = _serving(num_replicas=1)
    process = world.processes[world.ready_ids()[0]]
    process.load = Load(1, 0, 5)
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    world.kill(_one(world).members[0].replica_id)
    world.settle()
    assert (_one(world).incarnation, _one(world).phase) == (2, ReplicaPhase.READY)
    process.load = Load(0, 0, 5)
    world.settle()
    assert (dict(world.records.deployments), world.processes, world.placements) == ({}, {}, set())


def test_no_router_is_waited_for_when_an_actor_goes() -> None:
    world = _serving(num_replicas=0)
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
    world.kill(_one(world).members[0].replica_id)
    world.settle()
    assert (_one(world).incarnation, world.actor_gangs(other)) == (2, [theirs])
    world.deploy(a_spec(actors=(an_actor(),)))
    world.settle()
    assert world.actor_gangs(other) == []
    assert _one(world).phase is ReplicaPhase.READY


def test_three_deploys_at_once_leave_only_the_last_ones_actors() -> None:
    world = _world(num_replicas=2)
    for version in ("app:v2", "app:v3"):
        world.step()
        world.step()
        world.deploy(a_spec(import_path=version, actors=(an_actor(),)))
    world.settle()
    assert world.ready_paths() == {"app:v3": 2}
    assert [gang.revision for gang in world.actor_gangs()] == [world.record().target]
    assert len(world.processes) == len(world.placements) == 3


def test_a_deploy_that_comes_while_the_actor_starts_takes_its_place() -> None:
    world = _world(an_actor(import_path=HANGS))
    world.settle()
    assert len(world.processes) == 1
    world.deploy(_v2())
    world.settle()
    assert world.ready_paths() == {"app:v2": 2}
    assert len(world.processes) == len(world.placements) == 3


def test_a_deploy_in_the_middle_of_a_removal_brings_actors_back() -> None:
    world = _serving()
    world.change(deploy.delete(world.records, "app"))
    world.step()
    world.deploy(a_spec(actors=(an_actor(),)))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert len(world.processes) == len(world.placements) == 3


def test_going_back_while_the_old_actor_is_retired_waits_for_it_anew() -> None:
    world = _serving(num_replicas=1)
    first = _one(world)
    world.processes[first.members[0].replica_id].deaf = True
    world.deploy(_v2(num_replicas=1))
    world.settle()
    assert world.records.gangs[first.gang_id].phase is ReplicaPhase.DRAINING
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {"app:v2": 1}
    world.run(20.0)
    assert world.ready_paths() == {"app:v1": 1}
    assert _one(world).incarnation == 2


def test_a_paused_change_keeps_the_actors_of_both() -> None:
    world = _serving()
    world.deploy(_v2())
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.settle()
    assert {gang.revision for gang in world.actor_gangs()} == {world.record().target, world.record().last_good}
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert world.ready_paths() == {"app:v2": 2}
    assert len(world.actor_gangs()) == 1


def test_what_an_actor_needs_is_counted_and_waited_for() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(actors=(an_actor(resources=Resources(gpus=2.0)),)))
    world.settle()
    world.deploy(_v2(an_actor(resources=Resources(gpus=1.0))))
    world.settle()
    assert "room: actor cache: node-0 lacks 1 GPU" in world.status().message
    assert world.ready_paths() == {"app:v1": 2}


def test_an_actor_of_the_revision_that_still_serves_begins_anew_in_a_rollout() -> None:
    world = _serving()
    first = _one(world)
    world.deploy(_v2(an_actor(import_path=HANGS)))
    world.settle()
    world.kill(first.members[0].replica_id)
    world.settle()
    (again,) = [gang for gang in world.actor_gangs() if gang.revision == first.revision]
    assert (again.incarnation, again.phase) == (2, ReplicaPhase.READY)


def test_the_next_controller_finds_the_actors_of_every_revision() -> None:
    world = _serving()
    world.deploy(_v2(an_actor(import_path=HANGS)))
    world.settle()
    before = {gang.gang_id: gang for gang in world.actor_gangs()}
    assert len(before) == 2
    processes = dict(world.processes)
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert world.processes == processes
    assert {gang.gang_id: gang.incarnation for gang in world.actor_gangs()} == dict.fromkeys(before, 1)
    world.behaviour[HANGS] = "ready"
    world.run(5.0)
    assert world.ready_paths() == {"app:v2": 2}
    assert len(world.processes) == len(world.placements) == 3


def test_a_controller_and_an_actor_that_end_together_cost_only_that_actor() -> None:
    world = _serving(an_actor("cache"), an_actor("tree"))
    cache, tree, replicas = _one(world, "cache"), _one(world, "tree"), world.ready_ids()
    del world.processes[cache.members[0].replica_id]
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert (_one(world, "tree"), _one(world, "cache").incarnation) == (tree, 2)
    assert world.ready_ids() == replicas
    assert world.directories[replicas[0]][0].incarnation == 2


RENEWED = an_actor(on_failure=ActorOnFailure.RESTART_REPLICAS)


def test_replicas_from_before_an_actor_that_lost_its_state_are_replaced_once_it_is_back() -> None:
    world = _serving(RENEWED, num_replicas=4)
    before = set(world.ready_ids())
    world.behaviour["app:Cache"] = "hang"
    world.kill(_one(world).members[0].replica_id)
    world.settle()
    assert set(world.ready_ids()) == before
    world.behaviour["app:Cache"] = "ready"
    waits = []
    for _ in world.steps():
        waits.append(world.status().rollout)
        assert len(world.ready_ids()) >= 4
        assert len([gang for gang in world.gangs() if gang.phase in LIVE]) <= 5
    assert len(world.ready_ids()) == 4
    assert not before & set(world.ready_ids())
    assert any(one and one.waiting_for.startswith("replicas from before an actor began anew") for one in waits)
    assert "ReplicasOutdated" in [event.reason for event in world.events]
    assert world.status().state is DeploymentState.HEALTHY


def test_without_room_beside_them_they_are_replaced_within_what_may_be_unavailable() -> None:
    policy = RolloutPolicy(max_surge=Share(0), max_unavailable=Share(1))
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=3.0)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=3, rollout=policy, actors=(RENEWED,)))
    world.settle()
    before = set(world.ready_ids())
    world.advance(100.0)
    world.kill(_one(world).members[0].replica_id)
    for _ in world.steps():
        assert len(world.ready_ids()) >= 2
    assert len(world.ready_ids()) == 3
    assert not before & set(world.ready_ids())


def test_whole_gangs_are_replaced_after_an_actor() -> None:
    world = _serving(RENEWED, num_replicas=4, gang=GangPolicy(size=2))
    before = {gang.gang_id for gang in world.gangs()}
    world.kill(_one(world).members[0].replica_id)
    world.settle()
    assert [gang.size for gang in world.gangs(ReplicaPhase.READY)] == [2, 2]
    assert not before & {gang.gang_id for gang in world.gangs()}


def test_replicas_stay_when_the_actor_is_not_one_that_they_are_replaced_after() -> None:
    for policy in (ActorOnFailure.RESTART, ActorOnFailure.RESTART_FROM_SNAPSHOT):
        world = _serving(an_actor(on_failure=policy))
        before = world.ready_ids()
        world.kill(_one(world).members[0].replica_id)
        world.run(5.0)
        assert world.ready_ids() == before


def test_an_actor_leaves_a_node_that_is_drained_and_only_then_begins_elsewhere() -> None:
    nodes = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=2.0)) for name in ("a", "b"))
    world = World(nodes=nodes)
    world.add_router()
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(resources=Resources(cpus=0.5)),)))
    world.settle()
    world.advance(100.0)
    first = _one(world)
    node = first.members[0].node_id
    world.processes[first.members[0].replica_id].load = Load(1, 0, 5)
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now))
    world.settle()
    assert [life.phase for life in world.lives("cache")] == [ReplicaPhase.DRAINING]
    world.processes[first.members[0].replica_id].load = Load(0, 0, 5)
    world.settle()
    again = _one(world)
    assert (again.incarnation, again.phase) == (2, ReplicaPhase.READY)
    assert again.members[0].node_id != node
    assert world.record().actors[0].failures == 0


def test_past_the_nodes_deadline_an_actor_goes_and_waits_for_room() -> None:
    world = _serving(num_replicas=1)
    node = _one(world).members[0].node_id
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now, deadline_s=5.0))
    world.run(10.0)
    assert world.lives("cache") == []
    trouble = next(one for one in world.status().conditions if one.type == "Degraded")
    assert (trouble.status, trouble.reason) == (True, "ActorLost")
    assert "is being drained" in trouble.message


def test_the_actor_of_a_node_that_is_gone_begins_elsewhere() -> None:
    nodes = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=2.0)) for name in ("a", "b"))
    world = World(nodes=nodes)
    world.add_router()
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(resources=Resources(cpus=0.5)),)))
    world.settle()
    node = _one(world).members[0].node_id
    world.nodes = tuple(one for one in nodes if one.node_id != node)
    for replica_id, process in list(world.processes.items()):
        if process.action.bundle.node_id == node:
            del world.processes[replica_id]
    world.tell(events.NodesSeen(nodes=world.nodes, now=world.now))
    world.settle()
    assert (_one(world).incarnation, _one(world).members[0].node_id != node) == (2, True)
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_that_has_nowhere_to_go_stays_on_its_node() -> None:
    world = _serving(num_replicas=1)
    first = _one(world)
    node = first.members[0].node_id
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now))
    world.settle()
    assert _one(world) == first
    waiting = f"actor cache on node {node} waits for room: "
    (progressing,) = [one for one in world.status().conditions if one.type is ConditionType.PROGRESSING]
    assert (progressing.status, progressing.reason) == (True, "WaitingForResources")
    assert waiting in progressing.message
    assert waiting in world.status().message
    assert len(world.ready_ids()) == 1
    world.nodes = (*world.nodes, NodeObserved(node_id=NodeId("spare"), total=Resources(cpus=64.0)))
    world.list_backend()
    world.run(30.0)
    assert _one(world).members[0].node_id == "spare"
    assert world.status().state is DeploymentState.HEALTHY
    assert "waits for room" not in world.status().message


def test_status_tells_which_life_of_each_actor_runs() -> None:
    world = _serving(an_actor("cache"), an_actor("tree", shared=ActorSharing.DEPLOYMENT))
    world.kill(_one(world, "cache").members[0].replica_id)
    world.settle()
    cache, tree = world.status().actors
    assert (cache.name, cache.revision, cache.incarnation, cache.restarts, cache.start_failures) == (
        "cache",
        world.record().target,
        2,
        1,
        1,
    )
    assert cache.failure is not None
    assert cache.replica is not None
    assert (cache.phase, cache.replica.replica_id) == (ReplicaPhase.READY, _one(world, "cache").members[0].replica_id)
    assert cache.pid == world.processes[cache.replica.replica_id].pid
    assert (tree.name, tree.revision, tree.incarnation) == ("tree", None, 1)


def test_replicas_are_not_replaced_after_an_actor_before_a_change_of_revision_is_done() -> None:
    rollout = RolloutPolicy(max_surge=Share(1), max_unavailable=Share(0), pause_at=Share(1))
    shared = replace(RENEWED, shared=ActorSharing.DEPLOYMENT)
    world = _serving(shared, num_replicas=1)
    world.deploy(a_spec(import_path="app:Other", num_replicas=1, rollout=rollout, actors=(shared,)))
    world.settle()
    old, new = world.gangs()
    assert world.record().paused
    world.kill(old.members[0].replica_id)
    world.settle()
    world.advance(100.0)
    world.kill(_one(world).members[0].replica_id)
    world.settle()
    assert [gang.gang_id for gang in world.gangs()] == [new.gang_id]

    # What serves is not ready any more: the last good revision stands in for it, and is not stopped for that either.
    process = world.processes[new.members[0].replica_id]
    process.is_ready = False
    world.report(new.members[0].replica_id)
    world.settle()
    assert [gang.revision for gang in world.gangs(ReplicaPhase.READY)] == [new.revision, old.revision]

    process.is_ready = True
    world.report(new.members[0].replica_id)
    world.change(deploy.pause(world.records, key=KEY, paused=False))
    world.settle()
    (last,) = world.gangs()
    assert last.revision == new.revision
    assert last.gang_id != new.gang_id


def test_an_actor_that_cannot_save_its_state_serves_on_and_says_so() -> None:
    world = _serving()
    member = _one(world).members[0]
    report = world.observed.replica(member.replica_id, epoch=member.epoch).report
    assert report is not None
    failure = Failure(reason="APPLICATION_ERROR", message="save_state() raised OSError")
    world.tell(
        events.Reported(
            replica_id=member.replica_id,
            epoch=member.epoch,
            report=replace(report, snapshot_failure=failure),
            now=world.now,
        )
    )
    world.settle()
    (actor,) = world.status().actors
    assert (actor.failure, actor.phase) == (failure, ReplicaPhase.READY)
    assert world.status().state is DeploymentState.HEALTHY
