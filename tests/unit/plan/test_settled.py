"""Which gangs a plan only counts. That it is the same plan is checked at every plan of the small world."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.ids import ReplicaId
from serve_core.model.load import Load
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.plan import deploy, events
from serve_core.plan.settled import TOGETHER_S, Split
from tests.unit.plan.world import KEY, World, a_spec


def _world(*, count: int = 4) -> World:
    world = World()
    world.deploy(a_spec(num_replicas=count, rollout=RolloutPolicy(max_surge=Share(1))))
    world.settle()
    world.advance(0.1)
    world.step()
    assert _counted(world) == count
    return world


def _split(world: World) -> Split:
    return world.incremental.split(world.records, KEY, world.observed, now=world.now)


def _counted(world: World) -> int:
    return _split(world).settled.count


def _beat(world: World, replica_id: ReplicaId, *, epoch: int = 1) -> None:
    world.tell(events.HeartbeatSeen(replica_id=replica_id, epoch=epoch, load=Load(1, 0, 5), now=world.now))


def test_all_that_serve_are_counted_and_wake_by_their_silence() -> None:
    world = _world()
    settled = _split(world).settled
    assert settled.wake_at is not None
    assert world.now < settled.wake_at <= world.now + 3.0


def test_what_is_heard_of_one_is_looked_at_once() -> None:
    world = _world()
    world.report(world.ready_ids()[0])
    assert _counted(world) == 4, "it says nothing new, and is settled again at once"
    world.lose_attach(world.ready_ids()[0])
    assert _counted(world) == 4, "a lost stream is silence, and no more"


def test_one_that_dies_is_looked_at_and_its_successor_until_it_serves() -> None:
    world = _world()
    (dead, *_) = world.ready_ids()
    world.kill(dead)
    split = _split(world)
    assert ([gang.members[0].replica_id for gang in split.gangs], split.settled.count) == ([dead], 3)
    world.settle()
    world.advance(0.1)
    world.step()
    assert _counted(world) == 4
    assert dead not in world.ready_ids()


def test_one_that_is_silent_is_looked_at_and_then_counted_again() -> None:
    world = _world()
    (quiet, *others) = world.ready_ids()
    world.advance(2.9)
    for replica_id in others:
        _beat(world, replica_id)
    world.advance(0.2)
    assert [gang.members[0].replica_id for gang in _split(world).gangs] == [quiet]
    world.plan()
    assert _counted(world) == 3
    _beat(world, quiet)
    world.plan()
    assert _counted(world) == 4


def test_those_that_may_be_silent_soon_are_looked_at_together() -> None:
    world = _world()
    first, second, *_ = world.ready_ids()
    for replica_id in (first, second):
        world.report(replica_id)
        _counted(world)
        world.advance(TOGETHER_S / 2)
    for replica_id in world.ready_ids():
        _beat(world, replica_id)
    heard_at = world.now
    world.advance(2.9)
    settled = _split(world).settled
    assert (settled.count, settled.wake_at) == (4, heard_at + 3.0)


def test_a_heartbeat_of_another_start_is_not_one_as_usual() -> None:
    world = _world()
    (replica_id, *_) = world.ready_ids()
    _beat(world, replica_id, epoch=2)
    assert [gang.members[0].replica_id for gang in _split(world).gangs] == [replica_id]


def test_a_change_of_any_kind_is_planned_with_all() -> None:
    for changes in ({"import_path": "app:v2"}, {"num_replicas": 3}, {"max_ongoing_requests": 9}):
        world = _world()
        world.deploy(replace(world.record().target_spec, **changes))
        assert _counted(world) == 0, changes
        world.settle()
        world.advance(0.1)
        world.step()
        assert _counted(world) == world.record().num_replicas


def test_more_that_are_wanted_leave_the_others_settled() -> None:
    world = _world()
    world.change(deploy.scale(world.records, KEY, num_replicas=6))
    assert _counted(world) == 4


def test_removal_and_a_new_controller_look_at_all() -> None:
    world = _world()
    world.tell(events.ListeningResumed(now=world.now))
    assert _counted(world) == 4, "after one look at each"
    world.restart_controller()
    assert _counted(world) == 0
    world = _world()
    world.change(deploy.delete(world.records, "app"))
    assert _counted(world) == 0
