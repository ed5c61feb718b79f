"""Deployment actors while their deployment changes: each revision has its own, for as long as anything of it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.model.actor import ActorSharing
from serve_core.model.replica import ReplicaPhase
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState, RolloutPhase
from serve_core.plan import deploy
from serve_core.plan.revision import revision_id
from tests.unit.plan.actor_world import HANGS, deployed, life_of, second, serving
from tests.unit.plan.world import KEY, World, a_spec, an_actor


def test_a_new_revision_has_its_own_and_the_old_one_goes_after_its_last_replica() -> None:
    world = serving()
    first = life_of(world)
    v2 = second()
    world.deploy(v2)
    for _ in world.steps():
        old = [gang for gang in world.gangs() if gang.revision == first.revision]
        if old:
            assert world.records.gangs[first.gang_id].phase is ReplicaPhase.READY
    assert world.ready_paths() == {"app:v2": 2}
    assert life_of(world).revision == revision_id(v2)
    assert [actor.key.scope for actor in world.record().actors] == [revision_id(v2)]
    assert len(world.processes) == len(world.placements) == 3


@pytest.mark.parametrize("unavailable", ["0", "1", "100%"])
@pytest.mark.parametrize("count", [1, 4])
def test_the_old_revision_keeps_its_whole_capacity_until_the_new_actors_are_there(count: int, unavailable: str) -> None:
    policy = RolloutPolicy(max_unavailable=Share.parse(unavailable) or Share(0))
    world = serving(num_replicas=count, rollout=policy)
    world.deploy(second(an_actor(import_path=HANGS), num_replicas=count, rollout=policy))
    for _ in world.steps():
        assert world.ready_paths() == {"app:v1": count}
    world.behaviour[HANGS] = "ready"
    world.settle()
    assert world.ready_paths() == {"app:v2": count}


def test_actors_that_never_start_roll_the_change_back() -> None:
    world = serving(num_replicas=1)
    first = life_of(world)
    world.deploy(second(an_actor(import_path=HANGS, max_restarts=1, start_deadline_s=3.0), num_replicas=1))
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


def test_the_old_revisions_actor_that_is_lost_in_a_rollout_is_in_the_headline() -> None:
    world = serving()
    first = life_of(world)
    world.deploy(second(an_actor(import_path=HANGS)))
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


def test_nothing_else_waits_while_the_actors_of_another_revision_start() -> None:
    world = serving(num_replicas=4)
    world.deploy(second(an_actor(import_path=HANGS), num_replicas=4))
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


def test_the_same_description_keeps_actors_and_a_changed_one_replaces_only_what_changed() -> None:
    shared = an_actor("tree", shared=ActorSharing.DEPLOYMENT)
    world = serving(an_actor("cache"), shared)
    cache, tree = life_of(world, "cache"), life_of(world, "tree")
    world.deploy(a_spec(actors=(an_actor("cache"), shared)))
    world.settle()
    assert (life_of(world, "cache"), life_of(world, "tree")) == (cache, tree)
    world.deploy(second(an_actor("cache"), shared))
    world.settle()
    assert life_of(world, "cache").gang_id != cache.gang_id
    assert life_of(world, "tree").gang_id == tree.gang_id
    changed = replace(shared, import_path="app:Tree2")
    world.deploy(second(an_actor("cache"), changed))
    world.settle()
    assert life_of(world, "tree").gang_id != tree.gang_id
    assert len(world.actor_gangs()) == len(world.record().actors) == 2


def test_actors_are_added_and_removed_by_a_deploy() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec())
    world.settle()
    world.deploy(second())
    world.settle()
    assert life_of(world).phase is ReplicaPhase.READY
    world.deploy(a_spec(import_path="app:v3"))
    world.settle()
    assert (world.actor_gangs(), world.record().actors) == ([], ())
    assert len(world.processes) == 2


def test_three_deploys_at_once_leave_only_the_last_ones_actors() -> None:
    world = deployed(num_replicas=2)
    for version in ("app:v2", "app:v3"):
        world.step()
        world.step()
        world.deploy(a_spec(import_path=version, actors=(an_actor(),)))
    world.settle()
    assert world.ready_paths() == {"app:v3": 2}
    assert [gang.revision for gang in world.actor_gangs()] == [world.record().target]
    assert len(world.processes) == len(world.placements) == 3


def test_a_deploy_that_comes_while_the_actor_starts_takes_its_place() -> None:
    world = deployed(an_actor(import_path=HANGS))
    world.settle()
    assert len(world.processes) == 1
    world.deploy(second())
    world.settle()
    assert world.ready_paths() == {"app:v2": 2}
    assert len(world.processes) == len(world.placements) == 3


def test_a_deploy_in_the_middle_of_a_removal_brings_actors_back() -> None:
    world = serving()
    world.change(deploy.delete(world.records, "app"))
    world.step()
    world.deploy(a_spec(actors=(an_actor(),)))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert len(world.processes) == len(world.placements) == 3


def test_going_back_while_the_old_actor_is_retired_waits_for_it_anew() -> None:
    world = serving(num_replicas=1)
    first = life_of(world)
    world.processes[first.members[0].replica_id].deaf = True
    world.deploy(second(num_replicas=1))
    world.settle()
    assert world.records.gangs[first.gang_id].phase is ReplicaPhase.DRAINING
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {"app:v2": 1}
    world.run(20.0)
    assert world.ready_paths() == {"app:v1": 1}
    assert life_of(world).incarnation == 2


def test_a_paused_change_keeps_the_actors_of_both() -> None:
    world = serving()
    world.deploy(second())
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.settle()
    assert {gang.revision for gang in world.actor_gangs()} == {world.record().target, world.record().last_good}
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert world.ready_paths() == {"app:v2": 2}
    assert len(world.actor_gangs()) == 1


def test_an_actor_of_the_revision_that_still_serves_begins_anew_in_a_rollout() -> None:
    world = serving()
    first = life_of(world)
    world.deploy(second(an_actor(import_path=HANGS)))
    world.settle()
    world.kill(first.members[0].replica_id)
    world.settle()
    (again,) = [gang for gang in world.actor_gangs() if gang.revision == first.revision]
    assert (again.incarnation, again.phase) == (2, ReplicaPhase.READY)


def test_the_next_controller_finds_the_actors_of_every_revision() -> None:
    world = serving()
    world.deploy(second(an_actor(import_path=HANGS)))
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
