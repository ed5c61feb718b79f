"""A gang that loses a member after it was ready."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.model.gang import GangPolicy, OnMemberFailure
from serve_core.model.ids import NodeId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState
from serve_core.plan import actions as act
from serve_core.plan import deploy
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord
from tests.unit.plan.world import KEY, World, a_spec

REPLICA = OnMemberFailure.RESTART_REPLICA
STABLE_S = 40.0


def _spec(gangs: int = 3, size: int = 4, *, rollout: RolloutPolicy | None = None, **changes: object) -> DeploymentSpec:
    policy = GangPolicy(size=size, **changes)  # type: ignore[arg-type]
    return a_spec(num_replicas=gangs * size, gang=policy, rollout=rollout or RolloutPolicy())


def _ready(spec: DeploymentSpec | None = None, *, cpus: float = 64.0) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=cpus)),))
    world.add_router()
    world.deploy(spec or _spec())
    world.settle()
    world.run(STABLE_S, step_s=5.0)
    return world


def _ids(gang: GangRecord) -> list[ReplicaId]:
    return [member.replica_id for member in gang.members]


def _busy(world: World, replica_id: ReplicaId, ongoing: int = 1) -> None:
    world.processes[replica_id].load = Load(ongoing, 0, 5)
    if world.processes[replica_id].attached:
        world.report(replica_id)


def _break(world: World, replica_id: ReplicaId, how: str) -> None:
    process = world.processes[replica_id]
    match how:
        case "kill":
            world.kill(replica_id)
        case "silence":
            process.silent = True
            world.advance(100.0)
            for other in world.processes.values():
                if not other.silent:
                    world.report(other.action.replica_id)
        case "sicken":
            process.healthy = False
            world.report(replica_id)
        case "leave":
            process.phase = ReplicaPhase.DRAINING
            world.report(replica_id)


# The gang is replaced.


@pytest.mark.parametrize("how", ["kill", "silence", "sicken", "leave"])
def test_a_gang_leaves_whole_its_others_finish_and_it_alone_is_replaced(how: str) -> None:
    world = _ready()
    broken, *others = world.gangs(ReplicaPhase.READY)
    lost, busy = _ids(broken)[2], _ids(broken)[1]
    _busy(world, busy)
    _break(world, lost, how)
    world.plan()
    world.step()
    (draining,) = world.gangs(ReplicaPhase.DRAINING)
    assert draining.gang_id == broken.gang_id
    assert not set(_ids(broken)) & world.table.replica_ids
    assert {replica_id for gang in others for replica_id in _ids(gang)} <= world.table.replica_ids
    world.settle()
    assert busy in world.processes, "what it has is not cut"
    assert len(world.gangs(ReplicaPhase.READY)) == 3, "its place is filled without waiting"
    assert [len(world.record().failures), world.record().start_failures] == [1, 0]
    _busy(world, busy, 0)
    world.settle()
    world.run(10.0)
    assert {gang.gang_id for gang in others} <= {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)}
    assert len(world.gangs()) == 3
    killed = {action.replica_id for action in world.done if isinstance(action, act.KillProcess)}
    assert killed <= {lost}


def test_several_members_lost_at_once_are_one_failure() -> None:
    world = _ready()
    (broken, *_) = world.gangs(ReplicaPhase.READY)
    for replica_id in _ids(broken)[1:]:
        world.kill(replica_id)
    world.settle()
    assert len(world.record().failures) == 1
    assert world.record().failures[0].message.startswith(f"rank 1 of 4 ({_ids(broken)[1]}): ")
    assert sorted(gang.restarts for gang in world.gangs(ReplicaPhase.READY)) == [0, 0, 1]


def test_a_gang_of_which_nobody_is_left_has_nothing_to_finish() -> None:
    world = _ready(_spec(1))
    (broken,) = world.gangs(ReplicaPhase.READY)
    for replica_id in _ids(broken):
        world.kill(replica_id)
    world.plan()
    assert [gang.phase for gang in world.gangs() if gang.gang_id == broken.gang_id] == [ReplicaPhase.STOPPING]


def test_who_asks_for_it_has_the_others_ended_at_once() -> None:
    world = _ready(_spec(abort_in_flight=True))
    (broken, *others) = world.gangs(ReplicaPhase.READY)
    _busy(world, _ids(broken)[1])
    world.kill(_ids(broken)[2])
    world.settle()
    assert not set(_ids(broken)) & set(world.processes)
    assert {gang.gang_id for gang in others} <= {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)}


def test_two_broken_gangs_leave_the_third_alone() -> None:
    world = _ready()
    first, second, third = world.gangs(ReplicaPhase.READY)
    world.kill(_ids(first)[0])
    world.kill(_ids(second)[3])
    for _ in world.steps():
        assert set(_ids(third)) <= world.table.replica_ids
    assert len(world.record().failures) == 2
    assert len(world.gangs(ReplicaPhase.READY)) == 3


def test_the_replacement_waits_for_the_room_that_the_broken_gang_holds() -> None:
    world = _ready(cpus=12.0)
    (broken, *_) = world.gangs(ReplicaPhase.READY)
    _busy(world, _ids(broken)[1])
    world.kill(_ids(broken)[2])
    world.settle()
    assert len(world.gangs()) == 3
    progressing = next(one for one in world.record().conditions if one.type is ConditionType.PROGRESSING)
    assert f"waits for replica {_ids(broken)[0]}, " in progressing.message
    assert progressing.message.endswith(" to finish and end")
    _busy(world, _ids(broken)[1], 0)
    world.settle()
    assert len(world.gangs(ReplicaPhase.READY)) == 3


@pytest.mark.parametrize("lost", [1, 3])
def test_members_lost_while_the_controller_was_away_are_one_failure(lost: int) -> None:
    world = _ready()
    (broken, *others) = world.gangs(ReplicaPhase.READY)
    for replica_id in _ids(broken)[:lost]:
        del world.processes[replica_id]
    world.restart_controller()
    world.reconnect_routers()
    world.run(15.0)
    assert len(world.record().failures) == 1
    assert {gang.gang_id for gang in others} <= {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)}
    assert len(world.gangs(ReplicaPhase.READY)) == 3
    assert world.placements == set(world.records.gangs)


# The member is replaced.


@pytest.mark.parametrize("how", ["kill", "silence", "sicken", "leave"])
def test_one_member_is_replaced_in_its_rank_under_the_next_epoch(how: str) -> None:
    world = _ready(_spec(on_member_failure=REPLICA))
    (broken, *_) = world.gangs(ReplicaPhase.READY)
    lost = _ids(broken)[2]
    pids = {replica_id: world.processes[replica_id].pid for replica_id in _ids(broken)}
    _break(world, lost, how)
    world.plan()
    (repaired,) = world.gangs(ReplicaPhase.STARTING)
    assert (repaired.gang_id, repaired.epoch) == (broken.gang_id, 2)
    assert [member.epoch for member in repaired.members] == [1, 1, 2, 1]
    world.step()
    assert not set(_ids(broken)) & world.table.replica_ids, "it is not routed to in between"
    world.settle()
    world.run(6.0)
    assert {gang.gang_id for gang in world.gangs(ReplicaPhase.READY)} >= {broken.gang_id}
    after = {replica_id: world.processes[replica_id].pid for replica_id in _ids(broken)}
    assert [replica_id for replica_id in pids if pids[replica_id] != after[replica_id]] == [lost]
    for replica_id in _ids(broken):
        roster = world.processes[replica_id].roster
        assert roster is not None
        assert (roster.epoch, roster.members[2].epoch) == (2, 2)
        assert roster.members[2].address.endswith(f":{after[lost]}")
    assert {gang.gang_id: gang.restarts for gang in world.gangs()}[broken.gang_id] == 1
    assert len(world.record().failures) == 1
    assert len(world.table.replica_ids) == 12


def test_the_leader_takes_its_port_along() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    leader = _ids(gang)[0]
    world.kill(leader)
    world.settle()
    roster = world.processes[_ids(gang)[3]].roster
    assert roster is not None
    assert roster.rendezvous_port == world.processes[leader].pid


def test_the_work_of_the_others_goes_on() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    _busy(world, _ids(gang)[1])
    world.kill(_ids(gang)[2])
    world.settle()
    assert world.processes[_ids(gang)[1]].phase is ReplicaPhase.READY
    assert [one.phase for one in world.gangs()] == [ReplicaPhase.READY]


def test_the_former_process_is_gone_before_the_next_is_started() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    _break(world, _ids(gang)[2], "silence")
    world.plan()
    done = [type(action).__name__ for action in world.plan().actions]
    world.settle()
    kinds = [
        (type(action).__name__, action.epoch)
        for action in world.done
        if isinstance(action, act.KillProcess | act.StartProcess) and action.replica_id == _ids(gang)[2]
    ]
    assert kinds == [("StartProcess", 1), ("KillProcess", 1), ("StartProcess", 2)], done


def test_one_that_leaves_by_itself_finishes_before_it_is_replaced() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    lost = _ids(gang)[2]
    _busy(world, lost)
    world.processes[lost].phase = ReplicaPhase.DRAINING
    world.report(lost)
    assert [type(action).__name__ for action in world.plan().actions] == ["Disown"]


def test_a_member_that_cannot_be_replaced_ends_its_gang_whose_others_finish() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    busy = _ids(gang)[1]
    _busy(world, busy)
    world.behaviour["app:v1"] = "fail"
    world.kill(_ids(gang)[2])
    while len(world.record().failures) < 2:
        world.step()
    world.behaviour.clear()
    (draining,) = world.gangs(ReplicaPhase.DRAINING)
    assert draining.gang_id == gang.gang_id
    assert busy in world.processes
    assert [failure.message.partition(":")[0] for failure in world.record().failures] == [
        f"rank 2 of 4 ({_ids(gang)[2]})"
    ] * 2
    assert world.record().start_failures == 0
    _busy(world, busy, 0)
    world.run(10.0)
    (after,) = world.gangs()
    assert (after.phase, after.restarts) == (ReplicaPhase.READY, 2)
    assert world.placements == {after.gang_id}


def test_a_second_loss_meanwhile_ends_the_gang() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    world.behaviour["app:v1"] = "hang"
    world.kill(_ids(gang)[2])
    world.settle()
    world.kill(_ids(gang)[1])
    world.plan()
    assert gang.gang_id not in {one.gang_id for one in world.gangs(ReplicaPhase.STARTING)}


def test_the_start_deadline_holds_for_a_replacement_too() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA, start_deadline_s=7.0))
    (gang,) = world.gangs()
    world.behaviour["app:v1"] = "hang"
    world.kill(_ids(gang)[2])
    world.settle()
    world.run(13.0)
    assert [one.gang_id for one in world.gangs(ReplicaPhase.STARTING)] == [gang.gang_id]
    world.run(2.0)
    assert world.record().failures[0].reason == "START_TIMED_OUT"
    assert f"replica {_ids(gang)[2]} was not ready" in world.record().failures[0].message


def test_a_gang_that_is_not_wanted_while_it_is_repaired_drains() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA))
    (gang,) = world.gangs()
    busy = _ids(gang)[1]
    world.behaviour["app:v1"] = "hang"
    world.kill(_ids(gang)[2])
    world.settle()
    _busy(world, busy)
    world.deploy(replace(_spec(1, on_member_failure=REPLICA), num_replicas=0))
    world.settle()
    assert busy in world.processes
    _busy(world, busy, 0)
    world.settle()
    assert world.processes == {}
    assert world.placements == set()


@pytest.mark.parametrize("step", range(8))
def test_a_repair_survives_a_controller_that_dies_at_any_step(step: int) -> None:
    world = _ready(_spec(2, on_member_failure=REPLICA))
    (gang, other) = world.gangs()
    world.kill(_ids(gang)[2])
    for _ in range(step // 2):
        world.step()
    if step % 2:
        world.plan(crash_after=0)
    world.restart_controller()
    world.reconnect_routers()
    world.run(15.0)
    assert [one.gang_id for one in world.gangs(ReplicaPhase.READY)] == [gang.gang_id, other.gang_id]
    assert [one.epoch for one in world.gangs()] == [2, 1]
    assert len(world.record().failures) == 1


def test_whoever_is_lost_alone_is_no_ones_sibling() -> None:
    world = _ready(_spec(2, 1, on_member_failure=REPLICA))
    (gang, _) = world.gangs()
    world.kill(_ids(gang)[0])
    world.settle()
    assert gang.gang_id not in {one.gang_id for one in world.gangs()}, "there is no one left to join"
    assert len(world.gangs(ReplicaPhase.READY)) == 2


# Too often.


@pytest.mark.parametrize("policy", list(OnMemberFailure))
def test_a_place_in_which_gangs_are_lost_again_and_again_is_given_up_while_others_serve(
    policy: OnMemberFailure,
) -> None:
    world = _ready(_spec(on_member_failure=policy, max_restarts=2))
    keep = {gang.gang_id for gang in world.gangs()[:2]}
    for _ in range(3):
        (weak,) = [gang for gang in world.gangs(ReplicaPhase.READY) if gang.gang_id not in keep]
        world.kill(_ids(weak)[0])
        world.run(5.0)
    assert {gang.gang_id for gang in world.gangs()} == keep
    assert world.record().given_up == 1
    status = world.status()
    assert status.state is DeploymentState.DEGRADED
    (degraded,) = [one for one in status.conditions if one.type is ConditionType.DEGRADED]
    assert degraded.status
    assert degraded.reason == "RestartsExhausted"
    assert "rank 0 of 4" in degraded.message
    assert "max_restarts = 2" in degraded.message
    done = len(world.done)
    world.run(200.0, step_s=10.0)
    assert len(world.done) == done, "nothing is tried any more"
    world.restart_controller()
    world.reconnect_routers()
    world.run(60.0, step_s=5.0)
    assert len(world.gangs()) == 2


@pytest.mark.parametrize("by", ["deploy", "resume", "scale"])
def test_an_operator_has_it_tried_again(by: str) -> None:
    spec = _spec(max_restarts=0)
    world = _ready(spec)
    world.kill(_ids(world.gangs()[0])[0])
    world.run(20.0)
    assert len(world.gangs(ReplicaPhase.READY)) == 2
    match by:
        case "deploy":
            world.deploy(spec)
        case "resume":
            world.change(deploy.pause(world.records, KEY, paused=False))
        case "scale":
            world.change(deploy.scale(world.records, KEY, num_replicas=12))
    world.run(20.0)
    assert world.status().state is DeploymentState.HEALTHY
    assert len(world.gangs(ReplicaPhase.READY)) == 3


def test_when_every_place_is_given_up_the_deployment_has_failed() -> None:
    world = _ready(_spec(2, max_restarts=1))
    for _ in range(2):
        for gang in world.gangs(ReplicaPhase.READY):
            world.kill(_ids(gang)[1])
        world.run(10.0)
    assert world.gangs() == []
    status = world.status()
    assert status.state is DeploymentState.DEPLOY_FAILED
    assert "rank 1 of 4" in status.message
    assert world.placements == set()
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.run(10.0)
    assert world.status().state is DeploymentState.HEALTHY


def test_a_calm_time_begins_the_count_anew() -> None:
    world = _ready(_spec(1, max_restarts=1))
    for expected in (1, 2, 3):
        (gang,) = world.gangs(ReplicaPhase.READY)
        world.kill(_ids(gang)[0])
        world.run(STABLE_S, step_s=5.0)
        (gang,) = world.gangs(ReplicaPhase.READY)
        assert (gang.restarts, gang.restarts_in_a_row) == (expected, 1)


def test_replicas_that_are_alone_are_never_given_up() -> None:
    world = _ready(_spec(1, 1, max_restarts=0))
    for _ in range(3):
        world.kill(_ids(world.gangs(ReplicaPhase.READY)[0])[0])
        world.run(10.0)
    assert world.status().state is DeploymentState.HEALTHY


def test_counts_survive_a_controller() -> None:
    world = _ready(_spec(1, max_restarts=2))
    for _ in range(3):
        world.kill(_ids(world.gangs(ReplicaPhase.READY)[0])[0])
        world.restart_controller()
        world.reconnect_routers()
        world.run(12.0)
    assert world.gangs() == []
    assert world.status().state is DeploymentState.DEPLOY_FAILED


def test_each_loss_is_told_once_with_its_cause() -> None:
    world = _ready(_spec(1, on_member_failure=REPLICA, max_restarts=1))
    (gang,) = world.gangs()
    told = len(world.events)
    world.kill(_ids(gang)[2])
    world.run(5.0)
    world.kill(_ids(gang)[2])
    world.run(10.0)
    assert [(event.reason, event.warning) for event in world.events[told:]] == [
        ("MemberReplaced", True),
        ("GangReady", False),
        ("RestartsExhausted", True),
        ("GangFailed", True),
        ("GangDraining", False),
        ("GangGone", False),
    ]
    message = world.events[told].message
    assert message.startswith("rank 2 is started again in epoch 2, the others stay: rank 2 of 4 (")
