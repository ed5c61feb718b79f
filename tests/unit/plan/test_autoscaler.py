"""How many replicas a deployment has that scales by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.model.gang import GangPolicy, GangRoute
from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import OnFailure, RolloutPolicy
from serve_core.model.status import DeploymentState
from serve_core.plan import deploy, endpoints
from serve_core.plan.autoscaler import GAP_S, Autoscaler
from serve_core.plan.nodes import drain_node
from serve_core.plan.revision import revision_id
from tests.unit.plan.scaling import POLICY, ScalingWorld, scaling_spec
from tests.unit.plan.world import KEY, a_spec

V2 = "app:v2"
UP_S = POLICY.look_back_s + POLICY.upscale_delay_s + 2.0
DOWN_S = POLICY.look_back_s + POLICY.downscale_delay_s + 2.0
TO_ZERO = replace(POLICY, min_replicas=0)
PAIRS = replace(POLICY, min_replicas=2)
PAIR = GangPolicy(size=2)


def test_it_begins_with_the_fewest() -> None:
    assert ScalingWorld(scaling_spec()).num_replicas == 1
    assert ScalingWorld(scaling_spec(num_replicas=3)).num_replicas == 3


@pytest.mark.parametrize("kind", ["running", "reserved", "waiting"])
def test_it_gets_as_many_as_share_what_is_asked(kind: str) -> None:
    world = ScalingWorld(scaling_spec())
    setattr(world, kind, 7)
    world.scale_for(UP_S)
    assert world.num_replicas == 4  # of 2 each
    assert len(world.ready_ids()) == 4
    setattr(world, kind, 3)
    world.scale_for(DOWN_S)
    assert world.num_replicas == 2
    assert len(world.gangs()) == 2


def test_what_is_asked_adds_up() -> None:
    world = ScalingWorld(scaling_spec())
    world.running, world.reserved, world.waiting = 4, 3, 5
    world.scale_for(UP_S)
    assert world.num_replicas == 6


def test_a_burst_moves_nothing() -> None:
    world = ScalingWorld(scaling_spec())
    for _ in range(10):
        world.running = 20
        world.scale_for(2.0)
        world.running = 0
        world.scale_for(4.0)
    assert world.decided == []


def test_a_lull_moves_nothing() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=4))
    for _ in range(5):
        world.running = 7
        world.scale_for(UP_S)
        world.running = 0
        world.scale_for(POLICY.downscale_delay_s - 5.0)
    assert world.decided == []


def test_what_is_nearly_the_target_moves_nothing() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=5))
    world.running = 11  # 1.1 times the target
    world.scale_for(UP_S)
    assert world.num_replicas == 5
    world.running = 12
    world.scale_for(UP_S)
    assert world.num_replicas == 6


def test_the_usual_target_is_a_share_of_the_slots() -> None:
    policy = replace(POLICY, target_ongoing_requests=None)
    world = ScalingWorld(scaling_spec(policy, max_ongoing_requests=10))
    world.running = 21
    world.scale_for(UP_S)
    assert world.num_replicas == 3
    status = world.status().autoscaling
    assert status is not None
    assert status.target_ongoing_requests == pytest.approx(7.0)


def test_it_stays_within_its_bounds() -> None:
    world = ScalingWorld(scaling_spec())
    world.waiting = 1000
    world.scale_for(UP_S)
    assert world.num_replicas == 8
    world.waiting = 0
    world.scale_for(DOWN_S)
    assert world.num_replicas == 1


def test_it_says_why() -> None:
    world = ScalingWorld(scaling_spec())
    world.running, world.reserved, world.waiting = 2, 1, 3
    world.scale_for(UP_S)
    scaled = next(event for event in world.events if event.reason == "ScaledUp")
    assert scaled.message == (
        "from 1 to 3 replicas; autoscaling from 1 to 8: 2 running, 1 reserved, 3 waiting, 2 each is the target"
    )
    status = world.status()
    assert status.queued_requests == 3
    assert status.autoscaling is not None
    assert (status.autoscaling.min_replicas, status.autoscaling.max_replicas) == (1, 8)
    assert "3 waiting" in status.autoscaling.message


def test_the_first_is_wanted_at_once() -> None:
    world = ScalingWorld(scaling_spec(TO_ZERO))
    world.scale_for(DOWN_S)
    assert (world.num_replicas, world.gangs()) == (0, [])
    (route,), _ = endpoints.build(world.records, world.observed, now=world.now, policy=world.policy)
    assert route.available  # so that calls wait
    world.waiting = 1
    world.look()
    assert world.num_replicas == 1
    assert len(world.ready_ids()) == 1


def test_none_are_wanted_as_long_as_nothing_is_asked() -> None:
    world = ScalingWorld(scaling_spec(TO_ZERO, num_replicas=0))
    world.scale_for(DOWN_S)
    assert world.num_replicas == 0


def test_a_gang_is_never_split() -> None:
    world = ScalingWorld(scaling_spec(PAIRS, num_replicas=2, gang=PAIR))
    numbers = set()
    for asked in (7, 13, 16, 9, 1):
        world.running = asked
        world.scale_for(DOWN_S)
        numbers.add(world.num_replicas)
        assert world.num_replicas % 2 == 0
        assert len(world.gangs(ReplicaPhase.READY)) * 2 == world.num_replicas
    assert (min(numbers), max(numbers)) == (2, 8)


def test_from_two_to_eight_and_back() -> None:
    world = ScalingWorld(scaling_spec(PAIRS, num_replicas=2, gang=PAIR))
    world.running = 16
    world.scale_for(UP_S)
    assert (world.num_replicas, len(world.gangs(ReplicaPhase.READY))) == (8, 4)
    world.running = 0
    world.scale_for(DOWN_S)
    assert (world.num_replicas, len(world.gangs())) == (2, 1)
    assert world.record().failures == ()


def test_only_leaders_count_where_only_they_take_calls() -> None:
    world = ScalingWorld(scaling_spec(PAIRS, num_replicas=2, gang=replace(PAIR, route=GangRoute.LEADER)))
    world.waiting = 6
    world.scale_for(UP_S)
    assert world.num_replicas == 6  # three leaders, of 2 each


def test_after_a_restart_of_the_controller_the_delays_begin_anew() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=4))
    world.running = 8
    world.scale_for(DOWN_S)
    world.running = 0
    world.scale_for(POLICY.downscale_delay_s - 2.0)
    world.next_controller()
    world.scale_for(POLICY.downscale_delay_s - 1.0)
    assert world.num_replicas == 4
    world.scale_for(5.0)
    assert world.num_replicas == 1


def test_replicas_that_have_said_nothing_yet_change_nothing() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=4))
    world.next_controller()
    for process in world.processes.values():
        process.silent = True
    decided = [
        world.autoscaler.decide(world.records, world.observed, now=world.now + second)
        for second in range(int(DOWN_S) + 1)
    ]
    assert not any(decided)


def test_a_time_without_looks_proves_nothing() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=4))
    world.scale_for(POLICY.downscale_delay_s - 5.0)
    world.advance(GAP_S + 1.0)
    world.scale_for(POLICY.downscale_delay_s - 5.0)
    assert world.num_replicas == 4


def test_nothing_is_decided_before_the_backend_was_listed() -> None:
    world = ScalingWorld(scaling_spec())
    world.restart_controller(list_backend=False)
    assert Autoscaler().decide(world.records, world.observed, now=world.now) == ()


def test_what_an_operator_says_holds_for_the_delay() -> None:
    world = ScalingWorld(scaling_spec())
    world.scale_for(DOWN_S)
    world.change(deploy.scale(world.records, KEY, num_replicas=6))
    world.scale_for(POLICY.downscale_delay_s - 2.0)
    assert (world.num_replicas, world.record().scaled_for) == (6, "")
    world.scale_for(DOWN_S)
    assert world.num_replicas == 1


def test_what_an_operator_wants_is_the_same_after_a_rescale() -> None:
    world = ScalingWorld(scaling_spec())
    generation = world.records.applications["app"].generation
    world.running = 9
    world.scale_for(UP_S)
    assert world.num_replicas == 5
    assert world.records.applications["app"].generation == generation
    again = world.deploy(scaling_spec())
    assert again.saved_deployments == ()
    assert again.generation == generation
    assert world.num_replicas == 5


def test_a_decision_on_what_is_not_so_any_more_changes_nothing() -> None:
    world = ScalingWorld(scaling_spec())
    world.waiting = 10
    world.scale_for(UP_S)
    stale = world.decided[-1]
    assert deploy.rescale(world.records, stale).saved_deployments == ()
    world.deploy(a_spec(num_replicas=1))
    assert deploy.rescale(world.records, stale).saved_deployments == ()
    world.change(deploy.delete(world.records, "app"))
    assert deploy.rescale(world.records, stale).saved_deployments == ()


def test_bounds_change_in_place() -> None:
    world = ScalingWorld(scaling_spec())
    world.running = 3
    world.scale_for(UP_S)
    before, actions = set(world.ready_ids()), len(world.done)
    target = world.record().target
    change = world.deploy(scaling_spec(replace(POLICY, max_replicas=20, target_ongoing_requests=4.0)))
    world.settle()
    assert world.record().target == target
    assert (set(world.ready_ids()), len(world.done)) == (before, actions)  # no replica is told anything
    assert [(event.reason, event.message) for event in change.events] == [
        (
            "ChangedInPlace",
            "without a restart: autoscaling.max_replicas: 8 -> 20; autoscaling.target_ongoing_requests: 2 -> 4",
        )
    ]
    world.running = 80
    world.scale_for(UP_S)
    assert world.num_replicas == 20


@pytest.mark.parametrize(("least", "most", "becomes"), [(4, 8, 4), (1, 2, 2), (1, 8, 3)])
def test_other_bounds_hold_at_once(least: int, most: int, becomes: int) -> None:
    world = ScalingWorld(scaling_spec(num_replicas=3))
    world.deploy(scaling_spec(replace(POLICY, min_replicas=least, max_replicas=most)))
    assert world.num_replicas == becomes


def test_autoscaling_begins_and_ends_in_place() -> None:
    world = ScalingWorld(a_spec(num_replicas=3))
    before = set(world.ready_ids())
    world.deploy(a_spec(num_replicas=1, autoscaling=POLICY))
    world.settle()
    assert (world.num_replicas, set(world.ready_ids())) == (3, before)
    world.deploy(a_spec(num_replicas=2))
    world.settle()
    world.waiting = 100
    world.scale_for(UP_S)
    assert world.num_replicas == 2
    assert set(world.ready_ids()) < before


def test_an_update_goes_to_as_many_as_there_are() -> None:
    world = ScalingWorld(scaling_spec())
    world.running = 7
    world.scale_for(UP_S)
    world.deploy(scaling_spec(import_path=V2))
    world.scale_for(20.0)
    assert world.ready_paths() == {V2: 4}


def test_an_update_a_drain_of_a_node_and_more_calls_may_come_at_once() -> None:
    world = ScalingWorld(scaling_spec(replace(POLICY, upscale_delay_s=0.0)))
    world.running = 7
    world.scale_for(UP_S)
    node = world.gangs()[0].members[0].node_id
    world.running = 16
    world.deploy(scaling_spec(replace(POLICY, upscale_delay_s=0.0), import_path=V2))
    world.change(drain_node(world.records, known=[one.node_id for one in world.nodes], node_id=node, now=world.now))
    least = 4
    for _ in range(40):
        world.look()
        world.advance(1.0)
        least = min(least, len(world.ready_members()))
    assert least >= 4
    assert world.ready_paths() == {V2: 8}
    assert not any(member.node_id == node for gang in world.gangs() for member in gang.members)
    assert world.placements == set(world.records.gangs)
    assert world.record().failures == ()


def test_a_revision_that_was_given_up_stays_so_while_the_last_good_one_scales() -> None:
    held = RolloutPolicy(on_failure=OnFailure.HOLD)
    world = ScalingWorld(scaling_spec(rollout=held, num_replicas=2))
    world.behaviour[V2] = "fail"
    world.deploy(scaling_spec(rollout=held, import_path=V2))
    world.run(30.0)
    failed = world.status()
    assert failed.state is DeploymentState.DEPLOY_FAILED
    world.running = 9
    world.scale_for(UP_S)
    assert world.num_replicas == 5
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert world.record().terminal is not None
    assert world.ready_paths() == {a_spec().import_path: 5}


def test_a_first_revision_that_was_given_up_is_not_scaled() -> None:
    world = ScalingWorld(scaling_spec(num_replicas=2), behaviour="fail")
    for _ in range(8):
        world.look()
        world.advance(10.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    world.waiting = 50
    world.scale_for(UP_S)
    assert world.num_replicas == 2


def test_what_is_gone_back_to_scales_in_its_own_gangs() -> None:
    world = ScalingWorld(scaling_spec(PAIRS, num_replicas=2, gang=PAIR))
    world.deploy(scaling_spec(replace(POLICY, max_replicas=7)))
    world.running = 5
    world.scale_for(20.0)
    assert world.num_replicas == 3
    first = revision_id(scaling_spec(PAIRS, gang=PAIR))
    world.change(deploy.roll_back(world.records, KEY, revision=first))
    world.running = 9
    world.scale_for(30.0)
    assert world.record().target == first
    assert world.num_replicas == 6
    assert len(world.gangs(ReplicaPhase.READY)) == 3


@settings(max_examples=25)
@given(
    size=st.integers(1, 4),
    least=st.integers(0, 3),
    more=st.integers(0, 3),
    asked=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 6)), max_size=5),
)
def test_it_is_always_a_number_of_whole_gangs_within_the_bounds(
    size: int, least: int, more: int, asked: list[tuple[int, int]]
) -> None:
    least, most = least * size, (max(least, 1) + more) * size
    policy = replace(POLICY, min_replicas=least, max_replicas=most, upscale_delay_s=1.0, downscale_delay_s=4.0)
    world = ScalingWorld(
        scaling_spec(policy, num_replicas=policy.first_replicas(size=size), gang=GangPolicy(size=size)), nodes=8
    )
    for waiting, seconds in asked:
        world.waiting = waiting
        world.scale_for(seconds)
        assert least <= world.num_replicas <= most
        assert world.num_replicas % size == 0
    world.waiting = 0
    world.scale_for(10.0)
    assert world.num_replicas == least


@pytest.mark.parametrize("on_failure", OnFailure)
def test_what_has_not_run_whole_keeps_something_that_does(on_failure: OnFailure) -> None:
    rollout = RolloutPolicy(on_failure=on_failure)
    world = ScalingWorld(scaling_spec(TO_ZERO, rollout=rollout))
    world.behaviour[V2] = "hang"
    world.deploy(scaling_spec(TO_ZERO, rollout=rollout, import_path=V2, start_deadline_s=10_000.0))
    world.scale_for(2 * DOWN_S)
    assert world.ready_paths() == {a_spec().import_path: 1}
    world.behaviour["app:v3"] = "fail"
    world.deploy(scaling_spec(TO_ZERO, rollout=rollout, import_path="app:v3"))
    world.run(30.0)
    world.scale_for(2 * DOWN_S)
    failed = on_failure is OnFailure.HOLD
    assert (world.record().terminal is not None) is failed
    assert world.ready_paths() == ({a_spec().import_path: 1} if failed else {})


@pytest.mark.parametrize("how", ["deploy", "roll back"])
def test_another_revision_shows_that_it_runs_though_nobody_calls(how: str) -> None:
    world = ScalingWorld(scaling_spec(TO_ZERO, num_replicas=1))
    world.deploy(scaling_spec(TO_ZERO, import_path=V2))
    world.settle()
    world.scale_for(DOWN_S)
    assert world.num_replicas == 0
    if how == "deploy":
        world.behaviour["app:v3"] = "fail"
        world.deploy(scaling_spec(TO_ZERO, import_path="app:v3"))
        world.run(30.0)
        assert "RolloutFailed" in world.told()
        assert world.record().last_good == revision_id(scaling_spec(TO_ZERO, import_path=V2))
        world.waiting = 1
        world.look()
        assert world.ready_paths() == {V2: 1}
    else:
        world.change(deploy.roll_back(world.records, KEY))
        world.settle()
        assert world.ready_paths() == {a_spec().import_path: 1}
        world.scale_for(DOWN_S)
        assert world.num_replicas == 0
