"""Deployment actors that end, fall ill, fall silent or never start again: one life at a time, and who is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from serve_core.errors import DeploymentActorFailedError
from serve_core.model.actor import ActorSharing
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.status import DeploymentState
from serve_core.plan import deploy, events
from serve_core.rollouts import failure_of
from tests.unit.plan.actor_world import FAILS, deployed, life_of, serving
from tests.unit.plan.world import KEY, a_spec, an_actor


def test_starts_that_fail_are_tried_later_and_later() -> None:
    world = deployed(an_actor(import_path=FAILS, max_restarts=4))
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
    world = serving(an_actor("cache"), an_actor("tree"))
    tree, lost = life_of(world, "tree"), life_of(world, "cache")
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
    assert (life_of(world, "cache").incarnation, life_of(world, "tree").gang_id) == (2, tree.gang_id)
    assert world.ready_ids() == replicas


def test_nothing_else_waits_while_an_actor_is_not_there() -> None:
    world = serving(num_replicas=4)
    world.behaviour["app:Cache"] = "hang"
    world.kill(life_of(world).members[0].replica_id)
    world.kill(world.ready_ids()[0])
    world.settle()
    assert len(world.ready_ids()) == 4
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert len(world.ready_ids()) == 1


def test_an_actor_that_does_not_come_back_is_given_up_and_said_so_while_replicas_go_on() -> None:
    world = serving(an_actor(max_restarts=2))
    world.behaviour["app:Cache"] = "fail"
    world.kill(life_of(world).members[0].replica_id)
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
    world = serving(an_actor(max_restarts=0))
    world.kill(life_of(world).members[0].replica_id)
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
    assert life_of(world).incarnation == 2


def test_a_calm_time_ends_a_series_of_failures() -> None:
    world = serving(an_actor(max_restarts=1))
    for _ in range(5):
        world.kill(life_of(world).members[0].replica_id)
        world.run(world.policy.stable_after_s + 1.0)
        assert world.record().actors[0].failures == 0
    assert world.record().actors[0].restarts == 5
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_that_ends_again_and_again_is_given_up() -> None:
    world = serving(an_actor(max_restarts=2))
    for _ in range(3):
        world.kill(life_of(world).members[0].replica_id)
        world.run(5.0)
    assert world.lives("cache") == []
    assert world.status().state is DeploymentState.DEPLOY_FAILED


def test_an_ill_actor_is_drained_before_the_next_begins() -> None:
    world = serving()
    first = life_of(world)
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
    world = serving()
    first = life_of(world).members[0].replica_id
    world.processes[first].silent = True
    world.run(30.0)
    assert first not in world.processes
    assert life_of(world).incarnation == 2


def test_one_that_misses_heartbeats_is_told_of_before_it_is_given_up() -> None:
    world = serving()
    first = life_of(world).members[0].replica_id
    world.processes[first].silent = True
    world.run(5.0)
    status = world.status()
    assert status.state is DeploymentState.DEGRADED
    assert "incarnation 1 of actor cache: " in status.message
    assert "heartbeats" in status.message
    world.processes[first].silent = False
    world.run(1.0)
    assert world.status().state is DeploymentState.HEALTHY
    assert life_of(world).members[0].replica_id == first
    assert [event.reason for event in world.events if event.reason in ("ActorSuspect", "ActorBack")] == [
        "ActorSuspect",
        "ActorBack",
    ]


def test_an_actor_that_is_lost_while_its_replicas_finish_begins_anew_also_in_a_removal() -> None:
    world = serving(num_replicas=1)
    process = world.processes[world.ready_ids()[0]]
    process.load = Load(1, 0, 5)
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    world.kill(life_of(world).members[0].replica_id)
    world.settle()
    assert (life_of(world).incarnation, life_of(world).phase) == (2, ReplicaPhase.READY)
    process.load = Load(0, 0, 5)
    world.settle()
    assert (dict(world.records.deployments), world.processes, world.placements) == ({}, {}, set())


def test_a_controller_and_an_actor_that_end_together_cost_only_that_actor() -> None:
    world = serving(an_actor("cache"), an_actor("tree"))
    cache, tree, replicas = life_of(world, "cache"), life_of(world, "tree"), world.ready_ids()
    del world.processes[cache.members[0].replica_id]
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert (life_of(world, "tree"), life_of(world, "cache").incarnation) == (tree, 2)
    assert world.ready_ids() == replicas
    assert world.directories[replicas[0]][0].incarnation == 2


def test_status_tells_which_life_of_each_actor_runs() -> None:
    world = serving(an_actor("cache"), an_actor("tree", shared=ActorSharing.DEPLOYMENT))
    world.kill(life_of(world, "cache").members[0].replica_id)
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
    assert (cache.phase, cache.replica.replica_id) == (
        ReplicaPhase.READY,
        life_of(world, "cache").members[0].replica_id,
    )
    assert cache.pid == world.processes[cache.replica.replica_id].pid
    assert (tree.name, tree.revision, tree.incarnation) == ("tree", None, 1)


def test_an_actor_that_cannot_save_its_state_serves_on_and_says_so() -> None:
    world = serving()
    member = life_of(world).members[0]
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
