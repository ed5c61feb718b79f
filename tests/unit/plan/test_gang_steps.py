"""The steps of a change of revision in whole gangs, as (old, new) replicas that serve or are to serve."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from serve_core.model.gang import GangPolicy, Strategy
from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, OnFailure, RolloutPolicy
from serve_core.model.status import RolloutPhase
from serve_core.plan import deploy
from serve_core.plan.diff import surge
from serve_core.plan.lifecycle import LIVE, STARTING
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import replicas_in
from serve_core.plan.revision import revision_id
from serve_core.plan.rollout import Bounds
from tests.unit.plan.world import KEY, World, a_spec

V2, V3 = "app:v2", "app:v3"


def _share(text: str) -> Share:
    share = Share.parse(text)
    assert share is not None
    return share


def _spec(
    count: int, size: int, surge: str = "25%", unavailable: str = "0", *, path: str = "app:v1", **rollout: object
) -> DeploymentSpec:
    policy = RolloutPolicy(
        max_surge=_share(surge),
        max_unavailable=_share(unavailable),
        **rollout,  # type: ignore[arg-type]
    )
    return a_spec(num_replicas=count, gang=GangPolicy(size=size), rollout=policy, import_path=path)


def _world(spec: DeploymentSpec, *, cpus: float = 64.0) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=cpus)),))
    world.add_router()
    world.deploy(spec)
    world.settle()
    world.advance(100.0)
    world.settle()
    return world


def _counts(world: World, new: DeploymentSpec) -> str:
    live = [gang for gang in world.gangs() if gang.phase in LIVE]
    mine = [gang for gang in live if gang.revision == revision_id(new)]
    return f"{replicas_in(live) - replicas_in(mine)}+{replicas_in(mine)}"


def _steps(world: World, new: DeploymentSpec) -> str:
    counts = [_counts(world, new)]
    counts += [_counts(world, new) for _ in world.steps()]
    return ", ".join(step for step, _ in groupby(counts))


@pytest.mark.parametrize(
    ("count", "size", "percent", "unavailable", "most", "least"),
    [
        # A surge is whole gangs, and one at the least; what may be unavailable is replicas.
        (8, 4, "25%", "0", 12, 8),
        (8, 4, "4", "4", 12, 4),
        (8, 4, "5", "0", 16, 8),
        (8, 4, "0", "4", 8, 4),
        (8, 4, "0", "3", 12, 5),
        (20, 4, "20%", "20%", 24, 16),
        (12, 4, "34%", "0", 20, 12),
        (0, 4, "25%", "0", 0, 0),
    ],
)
def test_bounds_in_whole_gangs(count: int, size: int, percent: str, unavailable: str, most: int, least: int) -> None:
    world = _world(_spec(count, size, percent, unavailable))
    assert Bounds.of(world.record(), world.gangs()) == Bounds(most, most, least, kept=least)


@pytest.mark.parametrize(
    ("new", "old", "unavailable", "replicas"),
    [(1, 4, "0", 4), (4, 1, "0", 4), (4, 2, "0", 4), (3, 4, "0", 6), (4, 3, "2", 4), (4, 1, "4", 0), (4, 1, "3", 1)],
)
def test_a_surge_is_enough_for_a_change_of_size(new: int, old: int, unavailable: str, replicas: int) -> None:
    policy = RolloutPolicy(max_surge=Share(0), max_unavailable=_share(unavailable))
    assert surge(policy, 12, size=new, old_sizes=(old,)) == replicas


@pytest.mark.parametrize(
    ("old", "new", "cpus", "steps"),
    [
        # Room for one more gang, or not.
        (_spec(12, 4), _spec(12, 4, path=V2), 16.0, "12+0, 12+4, 8+4, 8+8, 4+8, 4+12, 0+12"),
        (_spec(12, 4), _spec(12, 4, path=V2), 12.0, "12+0"),
        (_spec(12, 4), _spec(12, 4, "0", "4", path=V2), 12.0, "12+0, 8+0, 8+4, 4+4, 4+8, 0+8, 0+12"),
        (_spec(4, 4), _spec(4, 4, path=V2), 64.0, "4+0, 4+4, 0+4"),
        (_spec(20, 4), _spec(20, 4, "40%", path=V2), 64.0, "20+0, 20+8, 12+16, 4+20, 0+20"),
        # No gang, gangs, no gang.
        (_spec(4, 1), _spec(4, 4, path=V2), 64.0, "4+0, 4+4, 0+4"),
        (_spec(4, 4), _spec(4, 1, path=V2), 64.0, "4+0, 4+4, 0+4"),
        (_spec(4, 1), _spec(4, 4, "0", "4", path=V2), 4.0, "4+0, 0+0, 0+4"),
        (_spec(8, 4), _spec(8, 2, path=V2), 64.0, "8+0, 8+4, 4+8, 0+8"),
        # Sizes that do not divide each other, and another number.
        (_spec(8, 4), _spec(9, 3, path=V2), 64.0, "8+0, 8+6, 4+9, 0+9"),
        (_spec(9, 3), _spec(8, 4, path=V2), 64.0, "9+0, 9+4, 6+8, 0+8"),
        (_spec(2, 1), _spec(8, 4, path=V2), 64.0, "2+0, 2+8, 0+8"),
        (_spec(4, 2), _spec(6, 3, path=V2), 8.0, "4+0, 4+3, 2+3, 2+6, 0+6"),
        # What grows is what comes: also where there is room for that alone.
        (_spec(1, 1), _spec(2, 1, path=V2), 2.0, "1+0, 1+1, 0+1, 0+2"),
        (_spec(4, 4), _spec(8, 4, path=V2), 8.0, "4+0, 4+4, 0+4, 0+8"),
        (_spec(8, 4), _spec(2, 1, path=V2), 64.0, "8+0, 4+2, 0+2"),
    ],
)
def test_the_steps(old: DeploymentSpec, new: DeploymentSpec, cpus: float, steps: str) -> None:
    world = _world(old, cpus=cpus)
    world.deploy(new)
    assert _steps(world, new) == steps


def test_a_roll_back_to_a_size_that_does_not_divide_the_number_runs_one_gang_more() -> None:
    world = _world(_spec(8, 4))
    world.deploy(_spec(9, 3, path=V2))
    world.settle()
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert [gang.size for gang in world.gangs(ReplicaPhase.READY)] == [4, 4, 4]
    rollout = world.status().rollout
    assert rollout is not None
    assert rollout.phase is RolloutPhase.COMPLETE


def test_what_served_is_replaced_whole_though_fewer_are_wanted_than_one_of_its_gangs_has() -> None:
    world = _world(_spec(3, 3))
    world.behaviour[V2] = "fail"
    world.deploy(_spec(1, 1, path=V2, on_failure=OnFailure.HOLD))
    world.run(60.0)
    assert world.record().terminal is not None
    for replica_id in world.ready_ids():
        world.kill(replica_id)
    world.run(60.0)
    assert [gang.size for gang in world.gangs(ReplicaPhase.READY)] == [3]


def test_what_is_wanted_while_a_change_is_paused_serves_in_whole_gangs_of_what_serves() -> None:
    world = _world(_spec(3, 3))
    world.deploy(_spec(1, 1, "0", "2", path=V2))
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.run(30.0)
    world.change(deploy.scale(world.records, KEY, num_replicas=4))
    world.run(60.0)
    assert [gang.size for gang in world.gangs(ReplicaPhase.READY)] == [3, 3]
    assert Bounds.of(world.record(), world.gangs()).most_good == 6


def test_the_target_has_no_more_surge_for_the_whole_gangs_of_what_served_before() -> None:
    world = _world(_spec(6, 3))
    world.deploy(_spec(4, 1, "1", "50%", path=V2))
    world.step()
    assert Bounds.of(world.record(), world.gangs()) == Bounds(most=5, most_good=6, least=2, kept=2)


def test_the_target_has_no_more_surge_once_the_whole_gangs_of_what_served_before_are_gone() -> None:
    world = _world(_spec(3, 3))
    world.deploy(_spec(3, 1, "0", "1", path=V2))
    next(_ for _ in world.steps() if all(gang.size == 1 for gang in world.gangs() if gang.phase in LIVE))
    assert world.record().last_good == revision_id(_spec(3, 3))
    new = _spec(3, 1, "0", "1", path=V3)
    world.deploy(new)
    counts = [replicas_in(gang for gang in world.gangs() if gang.phase in LIVE) for _ in world.steps()]
    assert (_counts(world, new), max(counts)) == ("0+3", 3)


def test_a_change_pauses_at_whole_gangs() -> None:
    world = _world(_spec(12, 4))
    new = _spec(12, 4, path=V2, pause_at=Share(10, percent=True))
    world.deploy(new)
    assert _steps(world, new) == "12+0, 12+4"
    rollout = world.status().rollout
    assert rollout is not None
    assert (rollout.phase, rollout.updated_available) == (RolloutPhase.PAUSED, 4)
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert _counts(world, new) == "0+12"


def test_no_more_start_than_may_but_one_gang_always_does() -> None:
    world = World()
    world.deploy(_spec(8, 4, max_concurrent_starts=3))
    most = 0
    for _ in world.steps():
        most = max(most, replicas_in(gang for gang in world.gangs() if gang.phase in STARTING))
    assert most == 4
    assert len(world.gangs(ReplicaPhase.READY)) == 2


def test_a_scale_down_stops_whole_gangs_the_least_loaded_first() -> None:
    world = _world(_spec(12, 4))
    first, second, third = world.gangs(ReplicaPhase.READY)
    # The sum over a gang counts, not its busiest member.
    for gang, held in ((first, (3, 0, 0, 0)), (second, (1, 1, 1, 1)), (third, (0, 0, 0, 2))):
        for member, ongoing in zip(gang.members, held, strict=True):
            world.processes[member.replica_id].load = Load(ongoing, 0, 5)
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=8))
    world.step()
    assert {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)} == {first.gang_id, second.gang_id}
    world.change(deploy.scale(world.records, KEY, num_replicas=4))
    world.step()
    assert {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)} == {second.gang_id}


def test_a_scale_down_stops_the_gang_with_a_member_that_is_not_ready_first() -> None:
    world = _world(_spec(8, 4))
    world.behaviour["app:v1"] = "hang"
    world.change(deploy.scale(world.records, KEY, num_replicas=12))
    world.settle()
    (coming,) = world.gangs(ReplicaPhase.STARTING)
    world.change(deploy.scale(world.records, KEY, num_replicas=8))
    world.step()
    assert coming.gang_id not in {gang.gang_id for gang in world.gangs() if gang.phase in LIVE}
    assert len(world.gangs(ReplicaPhase.READY)) == 2


def test_gangs_that_fit_serve_while_others_wait_for_a_node() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=9.0)),))
    world.add_router()
    world.deploy(_spec(12, 4))
    world.settle()
    assert [gang.size for gang in world.gangs()] == [4, 4], "whole gangs, and no member more"
    assert len(world.table.replica_ids) == 8
    world.nodes = (*world.nodes, NodeObserved(node_id=NodeId("m"), total=Resources(cpus=4.0)))
    world.list_backend()
    world.settle()
    assert len(world.gangs(ReplicaPhase.READY)) == 3


def test_what_grows_while_a_change_is_paused_is_kept_when_it_goes_on() -> None:
    world = _world(_spec(2, 1), cpus=5.0)
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.deploy(new := _spec(4, 1, path=V2))
    assert _steps(world, new) == "2+0, 4+0", "an operator may hold it for long"
    world.change(deploy.pause(world.records, KEY, paused=False))
    assert _steps(world, new) == "4+0, 4+1, 3+1, 3+2, 2+2, 2+3, 1+3, 1+4, 0+4"


def test_a_canary_leaves_the_room_to_what_comes() -> None:
    world = _world(_spec(1, 1), cpus=2.0)
    world.deploy(new := _spec(2, 1, path=V2, pause_at=_share("50%")))
    assert _steps(world, new) == "1+0, 1+1"
    world.change(deploy.pause(world.records, KEY, paused=False))
    assert _steps(world, new) == "1+1, 0+1, 0+2"


def test_a_change_that_replaces_another_keeps_what_that_has_brought() -> None:
    world = _world(_spec(2, 1), cpus=7.0)
    world.deploy(second := _spec(6, 1, path=V2, min_ready_s=500.0))
    assert _steps(world, second) == "2+0, 2+5"
    world.deploy(third := _spec(6, 1, path=V3))
    assert _steps(world, third) == "7+0, 6+0, 6+1, 5+1, 5+2, 4+2, 4+3, 3+3, 3+4, 2+4, 2+5, 1+5, 1+6, 0+6"


def test_a_roll_back_for_which_there_is_no_room_keeps_as_many_as_served_and_not_all_that_are_wanted() -> None:
    offers = {"a": 7.0, "b": 1.0, "c": 1.0, "d": 1.0}
    nodes = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=cpus)) for name, cpus in offers.items())
    world = World(nodes=nodes)
    world.add_router()
    world.deploy(old := _spec(2, 1))
    world.settle()
    new = replace(_spec(8, 4, path=V2), gang=GangPolicy(size=4, placement=Strategy.STRICT_SPREAD))
    world.deploy(new)
    assert _steps(world, new) == "2+0, 2+4, 0+4", "only one gang finds four nodes"
    world.change(deploy.roll_back(world.records, KEY))
    assert _steps(world, old) == "4+0, 4+6, 0+6, 0+8"
