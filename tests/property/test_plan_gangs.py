"""Random walks with gangs of mixed sizes, nodes that are drained and lost, and members that are replaced: the world checks at
every step that gangs are recorded, started and routed to whole, each rank once, in epochs that only rise.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.errors import ServeError
from serve_core.model.gang import GangPolicy, OnMemberFailure, Strategy
from serve_core.model.ids import NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.model.status import DeploymentState
from serve_core.plan import deploy
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.nodes import drain_node, undrain_node
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import replicas_in
from serve_core.plan.rollout import Bounds
from tests.property.test_plan_simulation import OPERATIONS, POLICIES, REVISIONS, Walk
from tests.unit.plan.world import KEY, World, a_spec

NODES = tuple(
    NodeObserved(node_id=NodeId(f"n{number}"), total=Resources(cpus=cpus))
    for number, cpus in enumerate((8.0, 5.0, 5.0))
)
SIZES = st.integers(1, 3)
GANGS = st.builds(
    GangPolicy,
    size=SIZES,
    placement=st.sampled_from((Strategy.PACK, Strategy.SPREAD)),
    on_member_failure=st.sampled_from(OnMemberFailure),
    start_deadline_s=st.sampled_from((None, 5.0)),
    max_restarts=st.sampled_from((1, 10)),
    abort_in_flight=st.sampled_from((False, False, True)),
)
NUMBERS = st.integers(0, 2)
GANG_OPERATIONS = st.one_of(
    OPERATIONS,
    st.tuples(st.just("shape"), st.tuples(GANGS, st.integers(0, 3), st.sampled_from(REVISIONS))),
    st.tuples(st.just("scale_gangs"), st.integers(0, 3)),
    st.tuples(st.just("drain"), st.tuples(NUMBERS, st.sampled_from((None, 5.0)))),
    st.tuples(st.just("undrain"), NUMBERS),
    st.tuples(st.just("lose"), NUMBERS),
    st.tuples(st.just("give_back"), st.none()),
)


class GangWalk(Walk):
    """Does one random thing after another to a world of gangs."""

    def __init__(self, gang: GangPolicy) -> None:
        self.world = World(nodes=NODES)
        self.spec = a_spec(num_replicas=2 * gang.size, gang=gang)
        self.world.deploy(self.spec)

    def shape(self, shape: tuple[GangPolicy, int, str]) -> None:
        gang, count, import_path = shape
        self._change(gang=gang, num_replicas=gang.size * count, import_path=import_path)

    def scale_gangs(self, count: int) -> None:
        self.scale(count * self.spec.gang.size)

    def drain(self, how: tuple[int, float | None]) -> None:
        self._node_change(drain_node, NODES[how[0]].node_id, deadline_s=how[1])

    def undrain(self, number: int) -> None:
        self._node_change(undrain_node, NODES[number].node_id)

    def _node_change(self, change: Any, node_id: NodeId, **how: Any) -> None:
        known = [node.node_id for node in self.world.nodes]
        try:
            self.world.change(change(self.world.records, known, node_id, now=self.world.now, **how))
        except ServeError:
            return

    def lose(self, number: int) -> None:
        """A node is gone with what ran there, and nobody says so of each process."""
        if len(self.world.nodes) == 1:
            return
        lost = NODES[number].node_id
        self.world.nodes = tuple(node for node in self.world.nodes if node.node_id != lost)
        for gang in self.world.records.gangs.values():
            for member in gang.members:
                if member.node_id == lost:
                    self.world.processes.pop(member.replica_id, None)
        self.world.list_backend()

    def give_back(self, _: None) -> None:
        self.world.nodes = NODES
        self.world.list_backend()

    def heal(self) -> None:
        for node_id in tuple(self.world.records.nodes):
            self._node_change(undrain_node, node_id)
        self.give_back(None)
        super().heal()


def _assert_whole(world: World) -> None:
    processes, placements = set(world.processes), set(world.placements)
    assert processes <= {member.replica_id for gang in world.records.gangs.values() for member in gang.members}
    assert placements == set(world.records.gangs)
    if KEY not in world.records.deployments:
        assert not world.records.gangs
        return
    record, ready = world.record(), world.gangs(ReplicaPhase.READY)
    if record.terminal is not None:
        assert world.status().state is DeploymentState.DEPLOY_FAILED
        return
    assert world.status().state is DeploymentState.HEALTHY, (world.status().message, world.log[-30:])
    assert len(ready) == len(world.gangs())
    assert {gang.revision for gang in ready} <= {record.target}
    assert {gang.size for gang in ready} <= {record.target_spec.gang.size}
    assert replicas_in(ready) == record.wanted
    assert world.table.replica_ids == {member.replica_id for gang in ready for member in gang.members}
    planned = world.plan()
    assert not planned.changes_records
    assert planned.actions == ()


@given(GANGS, st.lists(GANG_OPERATIONS, max_size=40))
@settings(max_examples=60, deadline=None)
def test_after_the_last_fault_all_gangs_are_whole(gang: GangPolicy, operations: list[tuple[str, Any]]) -> None:
    walk = GangWalk(gang)
    for operation, argument in operations:
        walk.do(operation, argument)
    walk.heal()
    walk.world.run(60.0, step_s=2.0)
    _assert_whole(walk.world)
    told = len(walk.world.events)
    walk.world.run(20.0, step_s=2.0)
    assert len(walk.world.events) == told, "events of nothing new"


@given(GANGS, st.lists(GANG_OPERATIONS, max_size=25))
@settings(max_examples=25, deadline=None)
def test_removing_gangs_ends(gang: GangPolicy, operations: list[tuple[str, Any]]) -> None:
    walk = GangWalk(gang)
    for operation, argument in operations:
        walk.do(operation, argument)
    for change in deploy.delete_all(walk.world.records):
        walk.world.change(change)
    walk.world.run(90.0, step_s=2.0)
    assert not walk.world.records.gangs
    assert not walk.world.processes
    assert not walk.world.placements


def _available(world: World) -> int:
    """Replicas of gangs that every router knows whole."""
    tables = [world.table.replica_ids, *(router.replicas for router in world.routers.values())]
    return replicas_in(
        gang
        for gang in world.gangs(ReplicaPhase.READY)
        if all(member.replica_id in table for table in tables for member in gang.members)
    )


@given(
    shapes=st.lists(st.tuples(SIZES | st.just(4), st.integers(1, 4)), min_size=2, max_size=4),
    policy=POLICIES,
    steps=st.lists(st.integers(0, 12), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_a_change_of_size_without_faults_keeps_to_its_bounds_and_ends(
    shapes: list[tuple[int, int]], policy: RolloutPolicy, steps: list[int]
) -> None:
    policy = replace(policy, min_ready_s=0.0, pause_at=None)
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=64.0)),))
    world.add_router()
    least = 0
    for number, ((size, count), step) in enumerate(zip(shapes, steps, strict=False)):
        before = replicas_in(world.gangs(ReplicaPhase.READY)) if number else 0
        spec = a_spec(
            num_replicas=size * count, import_path=REVISIONS[number % 3], gang=GangPolicy(size=size), rollout=policy
        )
        world.deploy(spec)
        least = min(before, least or before, Bounds.of(world.record()).least)
        for _ in range(step if number + 1 < len(shapes) else 300):
            world.step()
            assert _available(world) >= least
        if step == 12:
            world.settle(rounds=300)
            least = 0
    assert replicas_in(world.gangs(ReplicaPhase.READY)) == world.record().num_replicas
    assert {gang.size for gang in world.gangs()} == {shapes[-1][0]}
    assert world.status().state is DeploymentState.HEALTHY


@given(
    old=st.tuples(SIZES | st.just(4), st.integers(1, 4)),
    new=st.tuples(SIZES | st.just(4), st.integers(1, 4)),
    policy=POLICIES,
    beyond=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_change_of_size_and_number_ends_where_there_is_room_for_its_steps(
    old: tuple[int, int], new: tuple[int, int], policy: RolloutPolicy, beyond: int
) -> None:
    policy = replace(policy, min_ready_s=0.0, pause_at=None)
    before, wanted = old[0] * old[1], new[0] * new[1]
    # What has to serve, one gang of each kind beside it, and no more: gangs come and go in steps of their common divisor.
    step = gcd(old[0], new[0])
    kept = min(before, wanted - policy.max_unavailable.rounded_down(wanted))
    steps = -(-kept // step) * step + new[0] + old[0] - step
    cpus = max(before, wanted, steps) + beyond
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=float(cpus))),))
    world.add_router()
    world.deploy(a_spec(num_replicas=before, gang=GangPolicy(size=old[0]), rollout=policy))
    world.settle()
    world.deploy(a_spec(num_replicas=wanted, import_path=REVISIONS[1], gang=GangPolicy(size=new[0]), rollout=policy))
    for _ in world.steps():
        assert _available(world) >= kept
    assert {(gang.revision, gang.size) for gang in world.gangs()} == {(world.record().target, new[0])}
    assert replicas_in(world.gangs(ReplicaPhase.READY)) == wanted
    assert world.status().state is DeploymentState.HEALTHY


@given(
    gang=GANGS,
    count=st.integers(1, 4),
    surge=st.sampled_from((Share(0), Share(1), Share(50, percent=True))),
    nodes=st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True),
    paused=st.booleans(),
    steps=st.integers(0, 12),
)
@settings(max_examples=25, deadline=None)
def test_drained_nodes_become_empty_and_nothing_is_missed_where_there_is_room(
    gang: GangPolicy, count: int, surge: Share, nodes: list[int], paused: bool, steps: int
) -> None:
    world = World(nodes=tuple(replace(node, total=Resources(cpus=32.0)) for node in NODES))
    world.add_router()
    policy = RolloutPolicy(max_surge=surge)
    world.deploy(a_spec(num_replicas=count * gang.size, gang=gang, rollout=policy))
    world.run(60.0, step_s=5.0)
    world.deploy(a_spec(num_replicas=count * gang.size, gang=gang, rollout=policy, import_path="app:v2"))
    for _ in range(steps):
        world.step()
    if paused:
        world.change(deploy.pause(world.records, KEY, paused=True))
    for number in nodes:
        world.change(
            drain_node(world.records, [node.node_id for node in world.nodes], NODES[number].node_id, now=world.now)
        )
    for _ in world.steps(rounds=400):
        assert _available(world) >= count * gang.size
    drained = {NODES[number].node_id for number in nodes}
    live = [one for one in world.gangs() if one.phase in LIVE]
    assert not drained & {member.node_id for one in live for member in one.members}
