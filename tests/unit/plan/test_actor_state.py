"""Only the live incarnation of an actor stores and loads its state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.errors import ActorFencedError, ActorUnavailableError, ActorUnknownError, DeploymentUnknownError
from serve_core.model.ids import DeploymentKey
from serve_core.plan.actor_records import SnapshotRecord
from serve_core.plan.actor_state import Caller, life_of, serving_life, store_state
from serve_core.plan.deploy import apply_change
from serve_core.plan.records import Records
from tests.unit.plan.world import KEY, World, a_spec, an_actor


def _serving() -> World:
    world = World()
    world.add_router()
    world.deploy(a_spec(actors=(an_actor(),)))
    world.settle()
    return world


def _caller(world: World) -> Caller:
    (gang,) = world.actor_gangs()
    return Caller(replica_id=gang.members[0].replica_id, epoch=gang.members[0].epoch, incarnation=gang.incarnation)


def _snapshot(incarnation: int = 1, sequence: int = 1) -> SnapshotRecord:
    return SnapshotRecord(incarnation=incarnation, sequence=sequence, size_bytes=3, parts=1, time=5.0)


def _stored(records: Records) -> SnapshotRecord | None:
    return records.deployments[KEY].actors[0].snapshot


def test_the_live_one_stores() -> None:
    world = _serving()
    change = store_state(world.records, _caller(world), _snapshot())
    assert _stored(apply_change(world.records, change)) == _snapshot()
    assert change.generation == world.records.applications["app"].generation


@pytest.mark.parametrize(("incarnation", "sequence"), [(1, 5), (1, 4), (0, 9)])
def test_what_is_not_newer_changes_nothing(incarnation: int, sequence: int) -> None:
    world = _serving()
    world.change(store_state(world.records, _caller(world), _snapshot(1, 5)))
    assert store_state(world.records, _caller(world), _snapshot(incarnation, sequence)).saved_deployments == ()


@pytest.mark.parametrize(
    "changes", [{"epoch": 2}, {"epoch": 0}, {"incarnation": 2}, {"incarnation": 0}, {"replica_id": "app.main.x-0"}]
)
def test_nobody_else_does(changes: dict[str, object]) -> None:
    world = _serving()
    with pytest.raises(ActorFencedError):
        store_state(world.records, replace(_caller(world), **changes), _snapshot())  # type: ignore[arg-type]


def test_a_replica_does_not() -> None:
    world = _serving()
    with pytest.raises(ActorFencedError, match="no actor"):
        life_of(world.records, Caller(replica_id=world.ready_ids()[0], epoch=1, incarnation=0))


def test_one_that_was_given_up_does_not_though_it_lives() -> None:
    world = _serving()
    caller = _caller(world)
    world.processes[caller.replica_id].silent = True
    world.advance(30.0)
    world.plan(crash_after=0)
    assert caller.replica_id in world.processes
    with pytest.raises(ActorFencedError, match="was given up"):
        store_state(world.records, caller, _snapshot())


def test_one_that_drains_gives_its_last_state() -> None:
    world = _serving()
    caller = _caller(world)
    world.processes[caller.replica_id].deaf = True
    world.processes[caller.replica_id].healthy = False
    world.report(caller.replica_id)
    world.settle()
    world.change(store_state(world.records, caller, _snapshot()))
    assert _stored(world.records) == _snapshot()


def test_the_next_life_begins_from_it_only_if_it_should() -> None:
    world = _serving()
    world.change(store_state(world.records, _caller(world), _snapshot()))
    world.kill(_caller(world).replica_id)
    world.settle()
    (gang,) = world.actor_gangs()
    assert (gang.incarnation, gang.restore) == (2, False)
    assert _stored(world.records) == _snapshot()


def test_a_state_is_asked_of_what_serves() -> None:
    world = _serving()
    assert serving_life(world.records, KEY, "cache").gang == world.actor_gangs()[0]
    with pytest.raises(ActorUnknownError, match="it has: cache"):
        serving_life(world.records, KEY, "tree")
    with pytest.raises(DeploymentUnknownError):
        serving_life(world.records, DeploymentKey("app", "other"), "cache")
    world.behaviour["app:Cache"] = "hang"
    world.kill(_caller(world).replica_id)
    world.settle()
    with pytest.raises(ActorUnavailableError):
        serving_life(world.records, KEY, "cache")
