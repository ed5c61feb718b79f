"""What operators are told, once each."""

from __future__ import annotations

from serve_core.model.load import Load
from serve_core.plan import deploy
from tests.unit.plan.world import KEY, World, a_spec, an_actor


def _running(replicas: int = 1) -> World:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=replicas))
    world.settle()
    return world


def test_a_life() -> None:
    world = _running()
    assert [event.reason for event in world.events] == [
        "RolloutStarted",
        "GangCreated",
        "GangReady",
        "RolloutComplete",
    ]
    (gang,) = world.gangs()
    assert [event.subject for event in world.events] == ["", gang.gang_id, gang.gang_id, ""]
    assert {event.key for event in world.events} == {KEY}
    assert not any(event.warning for event in world.events)
    world.events.clear()
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert [event.reason for event in world.events] == ["GangDraining", "Deleting", "GangGone", "Deleted"]


def test_nothing_is_told_twice() -> None:
    world = _running()
    told = len(world.events)
    for _ in range(5):
        world.plan()
        world.restart_controller()
        world.reconnect_routers()
        world.run(20.0, step_s=5.0)
    assert len(world.events) == told


def test_a_failure_has_its_cause() -> None:
    world = _running()
    world.events.clear()
    world.run(60.0, step_s=5.0)
    (replica_id,) = world.ready_ids()
    world.kill(replica_id, exit_code=-11)
    world.settle()
    failed, *others = world.events
    assert (failed.reason, failed.warning, failed.time) == ("GangFailed", True, world.now)
    assert "READY" in failed.message
    assert "ended by signal 11" in failed.message
    assert [event.reason for event in others] == ["GangCreated", "GangGone", "GangReady"]
    assert "the 1. time that it is started again" in others[0].message


def test_an_ill_one_drains() -> None:
    world = _running()
    world.events.clear()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].load = Load(1, 0, 5)
    world.processes[replica_id].healthy = False
    world.report(replica_id)
    world.settle()
    assert [event.reason for event in world.events][:2] == ["GangFailed", "GangDraining"]


def test_scaling() -> None:
    world = _running(2)
    world.events.clear()
    world.change(deploy.scale(world.records, KEY, num_replicas=4))
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    scaled = [event.message for event in world.events if event.reason.startswith("Scaled")]
    assert scaled == ["from 2 to 4 replicas", "from 4 to 1 replicas"]


def test_pause_and_resume_and_undo() -> None:
    world = _running(2)
    world.events.clear()
    world.behaviour["app:v2"] = "hang"
    world.deploy(a_spec(import_path="app:v2"))
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.told() == [
        *("RolloutStarted", "RolloutPaused", "RolloutResumed"),
        *("Superseded", "RolloutStarted", "RolloutComplete"),
    ]


def test_an_actors_lives() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(max_restarts=1),)))
    world.settle()
    (first,) = world.actor_gangs()
    assert [event.reason for event in world.events if event.subject == first.gang_id] == [
        "ActorCreated",
        "ActorStarted",
    ]
    world.events.clear()
    world.kill(first.members[0].replica_id)
    world.settle()
    (second,) = world.actor_gangs()
    assert [(event.reason, event.subject) for event in world.events] == [
        ("ActorLost", first.gang_id),
        ("ActorGone", first.gang_id),
        ("ActorCreated", second.gang_id),
        ("ActorRestarted", second.gang_id),
    ]
    lost, restarted = world.events[0], world.events[-1]
    assert lost.warning
    assert lost.message.startswith("incarnation 1 of actor cache: ")
    assert restarted.message.endswith("it began empty")
    world.events.clear()
    world.kill(second.members[0].replica_id)
    world.settle()
    assert [event.reason for event in world.events if event.warning] == ["ActorLost", "ActorGivenUp"]
    world.change(deploy.delete(world.records, "app"))
    world.settle()


def test_an_actor_that_fails_to_start_is_told() -> None:
    world = World()
    world.behaviour["app:Cache"] = "fail"
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(max_restarts=0),)))
    world.settle()
    told = [event.reason for event in world.events]
    assert told == ["RolloutStarted", "ActorCreated", "RolloutFailed", "ActorFailed", "ActorGivenUp", "ActorGone"]
