from __future__ import annotations

from serve_core.model.gang import GangPolicy
from serve_core.model.ids import GangId, NodeId, ReplicaId
from serve_core.model.replica import ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.plan import actions as act
from serve_core.plan import events, orphans
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.world import World, a_spec

STRAY = ReplicaId("app.main.lost-0")


def _world() -> World:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    world.tell(events.ProcessStarted(replica_id=STRAY, epoch=2, pid=9, now=world.now))
    world.tell(events.PlacementReserved(gang_id=GangId("app.main.lost"), now=world.now))
    return world


def _collect(world: World) -> tuple[act.Action, ...]:
    return orphans.collect(world.records.gangs, world.observed, now=world.now)


def test_a_grace_period_comes_first() -> None:
    world = _world()
    assert _collect(world) == ()
    world.advance(15.0)
    assert len(_collect(world)) == 1
    world.restart_controller(list_backend=False)
    assert _collect(world) == ()


def test_what_nobody_owns_is_ended_and_freed() -> None:
    world = _world()
    world.advance(15.0)
    (kill,) = _collect(world)
    assert isinstance(kill, act.KillProcess)
    assert (kill.replica_id, kill.epoch, kill.gang_id) == (STRAY, 2, "app.main.lost")
    world.execute(kill)
    (free,) = _collect(world)
    assert free == act.FreePlacement(gang_id=GangId("app.main.lost"))
    world.execute(free)
    assert _collect(world) == ()


def test_what_a_gang_holds_is_freed_once_its_last_member_has_ended() -> None:
    world = _world()
    sibling = ReplicaId("app.main.lost-1")
    report = ReplicaReport(phase=ReplicaPhase.DRAINING)
    world.tell(events.AttachOpened(replica_id=sibling, epoch=1, pid=8, report=report, config="", now=world.now))
    world.advance(15.0)
    assert sorted(type(action).__name__ for action in _collect(world)) == ["Disown", "KillProcess"]
    world.tell(events.ProcessExited(replica_id=STRAY, epoch=2, exit_code=-9, now=world.now))
    (disown,) = _collect(world)
    assert isinstance(disown, act.Disown), "it drains, and uses what it holds"
    world.tell(events.ProcessExited(replica_id=sibling, epoch=1, exit_code=0, now=world.now))
    assert _collect(world) == (act.FreePlacement(gang_id=GangId("app.main.lost")),)


def test_what_lives_and_is_on_record_keeps_what_it_holds_across_controllers() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n0"), total=Resources(cpus=8.0)),))
    world.deploy(a_spec(num_replicas=4, gang=GangPolicy(size=2), bundles=(Resources(cpus=1.0),)))
    world.settle()
    held = set(world.placements)
    assert len(held) == 2
    assert all(len(gang.bundles) == 4 for gang in world.gangs())
    world.nodes = (NodeObserved(node_id=NodeId("other"), total=Resources(cpus=8.0)), *world.nodes)
    world.restart_controller()
    world.run(30.0)
    assert world.placements == held
    assert not [action for action in world.done if isinstance(action, act.FreePlacement | act.KillProcess)]


def test_who_is_attached_is_disowned() -> None:
    world = _world()
    report = ReplicaReport(phase=ReplicaPhase.READY)
    world.tell(events.AttachOpened(replica_id=STRAY, epoch=2, pid=9, report=report, config="", now=world.now))
    world.advance(15.0)
    disown = _collect(world)[0]
    assert isinstance(disown, act.Disown)
    assert disown.action_id == f"disown:{STRAY}:2"


def test_another_epoch_of_an_owned_replica_is_an_orphan() -> None:
    world = _world()
    (mine,) = world.ready_ids()
    world.tell(events.ProcessStarted(replica_id=mine, epoch=7, pid=9, now=world.now))
    world.advance(15.0)
    assert any(isinstance(action, act.KillProcess) and action.epoch == 7 for action in _collect(world))
