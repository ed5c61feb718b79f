"""Replicas that are replaced because an actor of theirs lost its state."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.actor import ActorOnFailure, ActorSharing
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.model.status import DeploymentState
from serve_core.plan import deploy
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.actor_world import life_of, serving
from tests.unit.plan.world import KEY, World, a_spec, an_actor

RENEWED = an_actor(on_failure=ActorOnFailure.RESTART_REPLICAS)


def test_replicas_from_before_an_actor_that_lost_its_state_are_replaced_once_it_is_back() -> None:
    world = serving(RENEWED, num_replicas=4)
    before = set(world.ready_ids())
    world.behaviour["app:Cache"] = "hang"
    world.kill(life_of(world).members[0].replica_id)
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
    world.kill(life_of(world).members[0].replica_id)
    for _ in world.steps():
        assert len(world.ready_ids()) >= 2
    assert len(world.ready_ids()) == 3
    assert not before & set(world.ready_ids())


def test_whole_gangs_are_replaced_after_an_actor() -> None:
    world = serving(RENEWED, num_replicas=4, gang=GangPolicy(size=2))
    before = {gang.gang_id for gang in world.gangs()}
    world.kill(life_of(world).members[0].replica_id)
    world.settle()
    assert [gang.size for gang in world.gangs(ReplicaPhase.READY)] == [2, 2]
    assert not before & {gang.gang_id for gang in world.gangs()}


def test_replicas_stay_when_the_actor_is_not_one_that_they_are_replaced_after() -> None:
    for policy in (ActorOnFailure.RESTART, ActorOnFailure.RESTART_FROM_SNAPSHOT):
        world = serving(an_actor(on_failure=policy))
        before = world.ready_ids()
        world.kill(life_of(world).members[0].replica_id)
        world.run(5.0)
        assert world.ready_ids() == before


def test_replicas_are_not_replaced_after_an_actor_before_a_change_of_revision_is_done() -> None:
    rollout = RolloutPolicy(max_surge=Share(1), max_unavailable=Share(0), pause_at=Share(1))
    shared = replace(RENEWED, shared=ActorSharing.DEPLOYMENT)
    world = serving(shared, num_replicas=1)
    world.deploy(a_spec(import_path="app:Other", num_replicas=1, rollout=rollout, actors=(shared,)))
    world.settle()
    old, new = world.gangs()
    assert world.record().paused
    world.kill(old.members[0].replica_id)
    world.settle()
    world.advance(100.0)
    world.kill(life_of(world).members[0].replica_id)
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
