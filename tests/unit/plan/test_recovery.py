"""What a new controller must not take for granted: that routers are back, and that the draining were told to."""

from __future__ import annotations

from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.plan import deploy, endpoints
from serve_core.plan.actions import KillProcess, SendDrain
from tests.unit.plan.world import KEY, World, a_spec


def _serving(replicas: int) -> World:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=replicas))
    world.settle()
    world.advance(60.0)
    world.step()
    return world


def _drains(world: World) -> int:
    return sum(isinstance(action, SendDrain) for action in world.done)


def test_nothing_is_told_to_drain_before_the_routers_of_an_earlier_life_had_their_lease() -> None:
    world = _serving(2)
    world.restart_controller()
    # The router lives, routes by its old table, and is not back yet.
    world.step()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert len(world.gangs(ReplicaPhase.DRAINING)) == 1
    assert _drains(world) == 0
    world.reconnect_routers()
    world.settle()
    world.advance(world.policy.router_lease_s)
    world.settle()
    assert _drains(world) == 1


def test_a_drain_that_nobody_could_order_is_not_over_its_budget() -> None:
    world = _serving(2)
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    world.routers.clear()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.plan(crash_after=0)
    (leaving,) = (gang.members[0].replica_id for gang in world.gangs(ReplicaPhase.DRAINING))
    world.advance(600.0)
    world.restart_controller()
    world.reconnect_routers()
    world.step()
    assert leaving in world.processes
    world.advance(world.policy.router_lease_s)
    world.settle()
    assert _drains(world) == 1
    assert not any(isinstance(action, KillProcess) for action in world.done)


def test_what_left_rotation_comes_back_when_that_is_on_record() -> None:
    world = _serving(1)
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].is_ready = False
    world.report(replica_id)
    world.settle()
    assert replica_id not in world.table.replica_ids
    world.processes[replica_id].is_ready = True
    world.report(replica_id)
    assert not endpoints.build(world.records, world.observed, now=world.now)[1]
    world.settle()
    assert replica_id in world.table.replica_ids
