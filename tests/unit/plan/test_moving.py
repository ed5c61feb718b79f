"""Nodes that are drained, and nodes that are lost: whole gangs move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest

from serve_core.model.gang import GangPolicy, OnMemberFailure, Strategy
from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, OnFailure, RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState
from serve_core.plan import deploy, nodes
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord, replicas_in
from tests.unit.plan.world import KEY, World, a_spec

V2 = "app:v2"


def _spec(
    gangs: int = 2, size: int = 2, *, unavailable: int = 0, path: str = "app:v1", **policy: object
) -> DeploymentSpec:
    return a_spec(
        num_replicas=gangs * size,
        import_path=path,
        gang=GangPolicy(size=size, placement=Strategy.STRICT_PACK, **policy),  # type: ignore[arg-type]
        rollout=RolloutPolicy(max_unavailable=Share(unavailable)),
    )


def _node(name: str, cpus: float = 2.0) -> NodeObserved:
    return NodeObserved(node_id=NodeId(name), total=Resources(cpus=cpus))


def _ready(spec: DeploymentSpec | None = None, *, count: int = 3, cpus: float = 2.0) -> World:
    """Nodes that have room for a gang of two each."""
    world = World(nodes=tuple(_node(f"n{number}", cpus) for number in range(count)))
    world.add_router()
    world.deploy(spec or _spec())
    world.settle()
    world.run(40.0, step_s=5.0)
    return world


def _drain(world: World, node: str, deadline_s: float | None = None) -> None:
    known = [one.node_id for one in world.nodes]
    world.change(nodes.drain_node(world.records, known, NodeId(node), now=world.now, deadline_s=deadline_s))


def _undrain(world: World, node: str) -> None:
    known = [one.node_id for one in world.nodes]
    world.change(nodes.undrain_node(world.records, known, NodeId(node), now=world.now))


def _lose(world: World, node: str) -> None:
    """The node is gone, with all that ran on it; nobody says so of each process."""
    world.nodes = tuple(one for one in world.nodes if one.node_id != node)
    for gang in world.records.gangs.values():
        for member in gang.members:
            if member.node_id == node:
                world.processes.pop(member.replica_id, None)
    world.list_backend()


def _on(world: World, node: str) -> list[GangRecord]:
    return [gang for gang in world.gangs() if any(member.node_id == node for member in gang.members)]


def _where(world: World) -> str:
    return world.gangs()[0].members[0].node_id


def _routable(world: World) -> int:
    return len(world.table.replica_ids) // 2


def test_what_is_there_is_ready_elsewhere_before_it_goes() -> None:
    world = _ready()
    node = _where(world)
    (before,) = _on(world, node)
    _drain(world, node)
    least = 9
    for _ in world.steps():
        least = min(least, _routable(world))
    assert least == 2
    assert _on(world, node) == []
    assert len(world.gangs(ReplicaPhase.READY)) == 2
    assert before.gang_id not in world.placements


def test_a_gang_moves_whole_though_only_one_member_is_there() -> None:
    spec = _spec(1, 2)
    spec = replace(spec, gang=replace(spec.gang, placement=Strategy.STRICT_SPREAD))
    world = _ready(spec, count=4)
    (gang,) = world.gangs()
    _drain(world, gang.members[0].node_id)
    world.settle()
    (moved,) = world.gangs()
    assert moved.gang_id != gang.gang_id
    assert gang.members[0].node_id not in {member.node_id for member in moved.members}


def test_where_there_is_no_room_it_stays_and_that_is_said() -> None:
    world = _ready(count=2)
    _drain(world, "n0")
    world.settle()
    world.run(100.0, step_s=10.0)
    assert len(_on(world, "n0")) == 1
    assert _routable(world) == 2
    status = world.status()
    assert status.state is DeploymentState.HEALTHY
    assert "waits for room" in status.message
    (progressing,) = [one for one in status.conditions if one.type is ConditionType.PROGRESSING]
    assert (progressing.status, progressing.reason) == (True, "WaitingForResources")
    assert status.rollout is not None
    assert status.rollout.waiting_for.startswith("what is on node n0 to be replaced elsewhere; it waits for room: ")
    world.nodes = (*world.nodes, _node("n9"))
    world.list_backend()
    world.settle()
    assert _on(world, "n0") == []
    assert _routable(world) == 2


def test_what_may_be_missing_may_go_first() -> None:
    world = _ready(_spec(unavailable=2), count=2)
    _drain(world, "n0")
    world.settle()
    assert _on(world, "n0") == []
    assert _routable(world) == 1
    assert world.status().state is not DeploymentState.HEALTHY


def test_when_the_deadline_is_over_it_goes_without_a_replacement_but_gracefully() -> None:
    world = _ready(count=2)
    (gang,) = _on(world, "n0")
    busy = gang.members[1].replica_id
    world.processes[busy].load = Load(1, 0, 5)
    _drain(world, "n0", deadline_s=30.0)
    world.run(29.0, step_s=1.0)
    assert gang.phase is ReplicaPhase.READY
    assert world.plan().wake_at is not None
    world.run(2.0, step_s=1.0)
    assert [one.phase for one in _on(world, "n0")] == [ReplicaPhase.DRAINING]
    assert busy in world.processes
    world.processes[busy].load = Load(0, 0, 5)
    world.report(busy)
    world.settle()
    assert _on(world, "n0") == []
    assert _routable(world) == 1


def test_what_starts_there_stops_at_once_and_starts_elsewhere() -> None:
    world = World(nodes=(_node("n0"), _node("n1")))
    world.add_router()
    world.behaviour["app:v1"] = "hang"
    world.deploy(_spec(1))
    world.settle()
    (gang,) = world.gangs(ReplicaPhase.STARTING)
    node = gang.members[0].node_id
    _drain(world, node)
    world.settle()
    (other,) = world.gangs(ReplicaPhase.STARTING)
    assert other.members[0].node_id != node
    assert world.record().failures == ()


def test_it_moves_also_while_a_change_is_held() -> None:
    world = _ready(count=6)
    new = _spec(path=V2)
    world.behaviour[V2] = "hang"
    world.deploy(new)
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.behaviour.clear()
    world.settle()
    old = [gang for gang in world.gangs(ReplicaPhase.READY) if gang.revision != world.record().target]
    assert len(old) == 2
    least = 9
    _drain(world, old[0].members[0].node_id)
    for _ in world.steps():
        least = min(least, _routable(world))
    assert least >= 2
    assert _on(world, old[0].members[0].node_id) == []
    live = [gang for gang in world.gangs() if gang.phase in LIVE]
    assert replicas_in(live) >= 4


@pytest.mark.parametrize("count", [3, 6])
def test_it_moves_also_while_a_change_is_under_way(count: int) -> None:
    world = _ready(count=count)
    node = _where(world)
    world.deploy(_spec(path=V2))
    world.step()
    _drain(world, node)
    least = 9
    for _ in world.steps():
        least = min(least, _routable(world))
    if count == 6:
        assert least >= 2
        assert _on(world, node) == []
        assert world.ready_paths() == {V2: 2}
    else:
        assert least >= 2


@pytest.mark.parametrize("gangs", [1, 3])
@pytest.mark.parametrize("order", list(permutations(("update", "scale", "drain"))), ids="-".join)
def test_an_update_a_scale_and_a_drain_may_come_at_once(order: tuple[str, ...], gangs: int) -> None:
    world = _ready(count=8)
    node = _where(world)
    changes: dict[str, Callable[[], object]] = {
        "update": lambda: world.deploy(_spec(world.record().num_replicas // 2, path=V2)),
        "scale": lambda: world.change(deploy.scale(world.records, KEY, num_replicas=2 * gangs)),
        "drain": lambda: _drain(world, node),
    }
    least = 9
    for change in order:
        changes[change]()
        world.step()
        least = min(least, _routable(world))
    for _ in world.steps():
        least = min(least, _routable(world))
    assert least >= min(2, gangs)
    assert _on(world, node) == []
    assert world.ready_paths() == {V2: gangs}
    assert len(world.gangs()) == gangs
    assert world.placements == set(world.records.gangs)
    assert world.record().failures == ()


def test_a_node_that_is_used_again_is_left_alone() -> None:
    world = _ready(count=2)
    before = {gang.gang_id for gang in world.gangs()}
    _drain(world, "n0")
    world.settle()
    _undrain(world, "n0")
    world.settle()
    assert {gang.gang_id for gang in world.gangs()} == before
    assert world.status().rollout is not None
    assert world.status().rollout.waiting_for == ""  # type: ignore[union-attr]
    assert "waits" not in world.status().message


def test_a_drain_goes_on_under_the_next_controller() -> None:
    world = _ready()
    node = _where(world)
    _drain(world, node)
    world.step()
    world.restart_controller()
    world.reconnect_routers()
    world.run(20.0)
    assert _on(world, node) == []
    assert _routable(world) == 2


def test_a_scale_down_takes_what_is_to_move_first() -> None:
    world = _ready(count=2)
    _drain(world, "n0")
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=2))
    world.settle()
    assert _on(world, "n0") == []
    assert len(world.gangs(ReplicaPhase.READY)) == 1


def test_all_of_a_deployment_can_move() -> None:
    world = _ready(count=5)
    for node in {gang.members[0].node_id for gang in world.gangs()}:
        _drain(world, node)
    least = 9
    for _ in world.steps():
        least = min(least, _routable(world))
    assert least == 2
    assert not {member.node_id for gang in world.gangs() for member in gang.members} & set(world.records.nodes)


# Nodes that are lost.


@pytest.mark.parametrize("policy", list(OnMemberFailure))
def test_a_gang_on_a_lost_node_is_replaced_elsewhere(policy: OnMemberFailure) -> None:
    world = _ready(_spec(on_member_failure=policy))
    node = _where(world)
    _lose(world, node)
    assert _routable(world) == 2
    world.step()
    assert _routable(world) == 1
    world.run(20.0)
    assert _routable(world) == 2
    assert len(world.record().failures) == 1
    assert "its node is not there any more" in world.record().failures[0].message
    assert world.placements == set(world.records.gangs)


def test_members_elsewhere_finish_what_they_have() -> None:
    spec = _spec(1, 2)
    spec = replace(spec, gang=replace(spec.gang, placement=Strategy.STRICT_SPREAD))
    world = _ready(spec, count=4)
    (gang,) = world.gangs()
    busy = gang.members[1].replica_id
    world.processes[busy].load = Load(1, 0, 5)
    world.report(busy)
    _lose(world, gang.members[0].node_id)
    world.settle()
    assert busy in world.processes
    assert len(world.gangs(ReplicaPhase.READY)) == 1
    world.processes[busy].load = Load(0, 0, 5)
    world.report(busy)
    world.settle()
    assert len(world.gangs()) == 1


def test_a_member_whose_node_is_lost_cannot_be_started_again_in_its_place() -> None:
    spec = _spec(1, 2, on_member_failure=OnMemberFailure.RESTART_REPLICA)
    spec = replace(spec, gang=replace(spec.gang, placement=Strategy.STRICT_SPREAD))
    world = _ready(spec, count=4)
    (gang,) = world.gangs()
    _lose(world, gang.members[0].node_id)
    world.plan()
    assert world.gangs(ReplicaPhase.STARTING) == []
    world.run(10.0)
    (after,) = world.gangs()
    assert (after.phase, after.epoch) == (ReplicaPhase.READY, 1)


def test_a_node_that_is_lost_is_no_failure_of_what_starts_there() -> None:
    world = World(nodes=(_node("n0"), _node("n1")))
    world.add_router()
    world.behaviour["app:v1"] = "hang"
    world.deploy(_spec(1))
    world.settle()
    (gang,) = world.gangs(ReplicaPhase.STARTING)
    _lose(world, gang.members[0].node_id)
    world.behaviour.clear()
    world.run(10.0)
    assert world.record().start_failures == 0
    assert len(world.gangs(ReplicaPhase.READY)) == 1


# Waiting for room.


def test_who_waits_for_what_others_hold_keeps_its_turn() -> None:
    world = World(nodes=(_node("n0"),))
    world.add_router()
    world.deploy(a_spec(name="other", num_replicas=2), _spec(0))
    world.settle()
    world.advance(5.0)
    since = world.now
    world.deploy(a_spec(name="other", num_replicas=2), _spec(1))
    world.settle()
    assert world.record().waiting_since == since
    world.run(20.0)
    assert world.record().waiting_since == since
    world.restart_controller()
    world.reconnect_routers()
    world.run(20.0)
    assert world.record().waiting_since == since
    world.deploy(a_spec(name="other", num_replicas=0), _spec(1))
    world.run(10.0)
    assert len(world.gangs(ReplicaPhase.READY)) == 1
    assert world.record().waiting_since == 0.0


def test_who_waits_for_more_than_there_is_waits_in_no_line() -> None:
    world = World(nodes=(_node("n0"),))
    world.deploy(_spec(1, 4))
    world.settle()
    assert world.record().waiting_since == 0.0


def test_what_stays_of_other_gangs_moves_while_a_failed_change_is_held() -> None:
    held = RolloutPolicy(on_failure=OnFailure.HOLD, max_surge=Share(0), max_unavailable=Share(25, percent=True))
    world = _ready(replace(_spec(2, 4), rollout=held), cpus=4.0)
    world.behaviour[V2] = "fail"
    world.deploy(replace(_spec(2, 3, path=V2), rollout=held))
    world.run(40.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    node = _where(world)
    _drain(world, node)
    least = 8
    for _ in world.steps():
        least = min(least, 4 * _routable(world))
    assert _on(world, node) == []
    assert world.ready_paths() == {"app:v1": 2}
    assert least == 8
