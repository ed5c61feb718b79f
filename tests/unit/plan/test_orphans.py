from __future__ import annotations

from serve_core.model.ids import GangId, ReplicaId
from serve_core.model.replica import ReplicaPhase, ReplicaReport
from serve_core.plan import actions as act
from serve_core.plan import events, orphans
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
    assert len(_collect(world)) == 2
    world.restart_controller(list_backend=False)
    assert _collect(world) == ()


def test_what_nobody_owns_is_ended_and_freed() -> None:
    world = _world()
    world.advance(15.0)
    kill, free = _collect(world)
    assert isinstance(kill, act.KillProcess)
    assert (kill.replica_id, kill.epoch, kill.gang_id) == (STRAY, 2, "app.main.lost")
    assert free == act.FreePlacement(gang_id=GangId("app.main.lost"))
    world.execute(kill)
    world.execute(free)
    assert _collect(world) == ()


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
