"""A gang's life, step by step, and what ends it."""

from __future__ import annotations

from serve_core.model.endpoints import TableVersion
from serve_core.model.health import HealthPolicy
from serve_core.model.load import Load
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Failure, ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.model.status import Condition, ConditionType, DeploymentState
from serve_core.plan import actions as act
from serve_core.plan import deploy, events
from tests.unit.plan.world import KEY, World, a_spec

CONFIG = Payload(Encoding.JSON, b'{"model": "large"}')


def _running(**changes: object) -> World:
    world = World()
    world.add_router()
    world.deploy(a_spec(**{"num_replicas": 1, **changes}))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    world.done.clear()
    return world


def _kinds(world: World) -> list[str]:
    return [type(action).__name__ for action in world.done]


def test_nothing_is_planned_before_the_backend_was_listed() -> None:
    world = World()
    world.deploy(a_spec())
    world.restart_controller(list_backend=False)
    planned = world.plan()
    assert not planned.changes_records
    assert not planned.actions
    world.list_backend()
    assert world.plan().changes_records


def test_intent_comes_first() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    planned = world.plan()
    assert [gang.phase for gang in planned.saved_gangs] == [ReplicaPhase.RESERVING]
    assert [type(action) for action in planned.actions] == [act.ReservePlacement]
    planned = world.plan()
    assert [gang.phase for gang in planned.saved_gangs] == [ReplicaPhase.STARTING]
    (start,) = planned.actions
    assert isinstance(start, act.StartProcess)
    assert (start.replica_id, start.epoch) == (planned.saved_gangs[0].members[0].replica_id, 1)
    assert start.spec == a_spec(num_replicas=1)
    assert world.record().observed_generation == 1


def test_a_crash_between_saving_and_doing_is_repaired() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    world.plan(crash_after=0)
    world.restart_controller()
    world.plan()
    world.plan(crash_after=0)
    assert not world.processes
    world.restart_controller()
    world.settle()
    assert len(world.ready_ids()) == 1
    assert len(world.processes) == 1


def test_gpus_are_named_to_the_process() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1, resources=Resources(gpus=2.0)))
    world.settle()
    (start,) = [action for action in world.done if isinstance(action, act.StartProcess)]
    assert start.env == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_a_refused_placement_is_waited_for_and_is_no_failed_start() -> None:
    world = World()
    world.refuse_placements = True
    world.deploy(a_spec(num_replicas=1))
    world.run(20)
    record = world.record()
    assert (record.start_failures, record.terminal) == (0, None)
    assert record.failures[0].message == "no room"
    assert 3 <= record.crashes <= 8
    world.refuse_placements = False
    world.run(40)
    assert world.status().state is DeploymentState.HEALTHY


def test_a_refusal_without_a_reason_is_explained() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    planned = world.plan(crash_after=0)
    gang = planned.saved_gangs[0].gang_id
    world.refuse_placements = True
    world.execute(planned.actions[0])
    placements = {gang: type(world.observed.placements[gang])(state=world.observed.placements[gang].state)}
    world.observed = type(world.observed)(
        listening_since=0.0, listed_at=1.0, placements=placements, nodes=world.observed.nodes
    )
    world.plan()
    assert "has no room" in world.record().failures[0].message


def test_a_start_that_is_too_slow_fails_with_the_deadline() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1, start_deadline_s=20.0))
    world.settle()
    first = world.gangs()[0].gang_id
    assert world.plan().wake_at == world.now + 22.0
    world.advance(21.9)
    world.settle()
    assert world.gangs()[0].gang_id == first
    world.advance(0.1)
    world.settle()
    assert world.record().failures[0].reason == "START_TIMED_OUT"
    assert "start_deadline_s = 20 s" in world.record().failures[0].message
    assert world.record().start_failures == 1
    assert first not in {gang.gang_id for gang in world.gangs()}


def test_a_hanging_constructor_is_not_lost_by_silence() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1, start_deadline_s=300.0))
    world.settle()
    for process in world.processes.values():
        process.silent = True
    world.advance(200.0)
    world.settle()
    assert world.gangs(ReplicaPhase.STARTING)
    assert not world.record().failures


def test_a_process_that_cannot_be_started() -> None:
    world = World()
    world.refuse_starts = True
    world.deploy(a_spec(num_replicas=1))
    world.run(10)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert world.record().failures[0].message == "no such interpreter"
    assert not world.gangs()
    assert not world.placements


def test_a_process_that_exits_before_it_is_ready() -> None:
    world = World()
    world.behaviour["app:v1"] = "exit"
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    assert world.record().failures[0].reason == "REPLICA_DIED"
    assert "exit code 3" in world.record().failures[0].message


def test_the_replicas_own_word_is_the_failure() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    assert world.record().failures[0].reason == "CONSTRUCTOR_FAILED"
    assert world.record().failures[0].traceback == "Traceback"


def test_an_ended_process_is_replaced_under_a_new_id() -> None:
    world = _running()
    (old,) = world.ready_ids()
    world.kill(old)
    world.settle()
    (new,) = world.ready_ids()
    assert new != old
    assert "ended by signal 9" in world.record().failures[0].message
    assert world.record().start_failures == 0
    assert len(world.placements) == 1


def test_an_exit_of_unknown_code() -> None:
    world = _running()
    (old,) = world.ready_ids()
    del world.processes[old]
    world.tell(events.ProcessExited(replica_id=old, epoch=1, exit_code=None, now=world.now))
    world.settle()
    assert "its process has ended" in world.record().failures[0].message


def test_a_lost_stream_is_only_a_suspicion() -> None:
    world = _running()
    world.advance(60.0)
    world.settle()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].silent = True
    world.lose_attach(replica_id)
    world.advance(2.9)
    world.settle()
    assert world.ready_ids() == [replica_id]
    assert replica_id in world.table.replica_ids
    assert world.plan().wake_at is not None
    world.processes[replica_id].silent = False
    world.settle()
    world.advance(2.9)
    world.settle()
    assert world.ready_ids() == [replica_id]


def test_ten_missed_heartbeats_confirm_the_suspicion() -> None:
    world = _running()
    world.advance(60.0)
    world.settle()
    (old,) = world.ready_ids()
    world.processes[old].silent = True
    world.lose_attach(old)
    assert world.plan().wake_at == world.now + 3.0
    world.advance(3.0)
    world.settle()
    assert old in world.processes
    assert world.plan().wake_at == world.now + 7.0
    world.advance(7.0)
    world.settle()
    assert old not in world.processes
    assert "nothing was heard" in world.record().failures[0].message


def test_what_many_heartbeats_are_is_the_deployments_to_say() -> None:
    world = _running(health=HealthPolicy(heartbeat_period_s=0.5, suspect_after_missed=2, lost_after_missed=40))
    (old,) = world.ready_ids()
    world.processes[old].silent = True
    world.advance(1.0)
    world.settle()
    assert world.table.replica_ids == set()
    world.advance(18.9)
    world.settle()
    assert old in world.processes
    world.advance(0.1)
    world.settle()
    assert old not in world.processes


def test_silence_while_the_controller_could_not_listen_proves_nothing() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].silent = True
    world.advance(500.0)
    world.tell(events.ListeningResumed(now=world.now))
    world.settle()
    assert world.ready_ids() == [replica_id]


def test_a_new_controller_gives_the_living_time_to_attach() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].silent = True
    world.advance(100.0)
    world.restart_controller()
    world.advance(9.9)
    world.settle()
    assert world.gangs(ReplicaPhase.READY)
    world.processes[replica_id].silent = False
    world.settle()
    world.advance(30.0)
    world.settle()
    assert world.ready_ids() == [replica_id]


def test_what_died_while_the_controller_was_away_is_replaced() -> None:
    world = _running()
    (old,) = world.ready_ids()
    del world.processes[old]
    world.restart_controller()
    world.settle()
    assert len(world.ready_ids()) == 1
    assert "not there any more" in world.record().failures[0].message


def test_an_ill_replica_is_replaced_and_drained_not_killed() -> None:
    world = _running()
    (old,) = world.ready_ids()
    world.processes[old].healthy = False
    world.processes[old].load = Load(1, 0, 5)
    world.report(old)
    world.settle()
    (new,) = world.ready_ids()
    assert new != old
    assert [gang.members[0].replica_id for gang in world.gangs(ReplicaPhase.DRAINING)] == [old]
    assert old in world.processes
    assert "health checks fail" in world.record().failures[0].message
    world.processes[old].load = Load(0, 0, 5)
    world.settle()
    assert old not in world.processes
    assert "KillProcess" not in _kinds(world)


def test_a_replica_that_leaves_by_itself_is_replaced() -> None:
    world = _running()
    (old,) = world.ready_ids()
    world.processes[old].phase = ReplicaPhase.DRAINING
    world.processes[old].load = Load(1, 0, 5)
    world.report(old)
    world.settle()
    assert len(world.ready_ids()) == 1
    assert "leaves by itself" in world.record().failures[0].message


def test_a_drain_waits_for_every_router_to_withdraw() -> None:
    world = _running()
    slow = world.add_router("slow")
    world.settle()
    slow.stuck = True
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    assert world.gangs(ReplicaPhase.DRAINING)
    assert "SendDrain" not in _kinds(world)
    slow.stuck = False
    world.settle()
    assert "SendDrain" in _kinds(world)
    assert not world.gangs()


def test_a_router_that_never_withdraws_is_not_waited_for_for_ever() -> None:
    world = _running()
    world.routers[next(iter(world.routers))].stuck = True
    world.advance(5.0)
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    assert world.plan().wake_at == world.now + 10.0
    world.advance(10.0)
    world.settle()
    assert not world.gangs()


def test_a_router_whose_stream_broke_is_waited_for_during_its_lease() -> None:
    world = _running()
    (router,) = world.routers.values()
    router.stuck = True
    world.tell(events.RouterLost(router_id=router.router_id, now=world.now))
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    assert world.plan().wake_at == world.now + 3.0
    world.advance(3.0)
    world.settle()
    assert not world.gangs()


def test_a_drain_that_exceeds_its_budget_is_ended() -> None:
    world = _running(graceful_shutdown_timeout_s=5.0)
    (old,) = world.ready_ids()
    world.processes[old].load = Load(1, 0, 5)
    world.deploy(a_spec(num_replicas=0, graceful_shutdown_timeout_s=5.0))
    world.settle()
    (drain,) = [action for action in world.done if isinstance(action, act.SendDrain)]
    assert drain.budget_s == 5.0
    world.advance(6.9)
    world.settle()
    assert old in world.processes
    world.advance(0.1)
    world.settle()
    assert old not in world.processes
    assert not world.gangs()


def test_a_drain_without_a_stream_ends_all_the_same() -> None:
    world = _running()
    (old,) = world.ready_ids()
    world.processes[old].load = Load(1, 0, 5)
    world.processes[old].silent = True
    world.lose_attach(old)
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    assert "SendDrain" not in _kinds(world)
    world.advance(17.0)
    world.settle()
    assert not world.processes


def test_a_gang_that_is_not_wanted_before_it_is_ready_is_ended_at_once() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert not world.records.gangs
    assert not world.records.deployments
    assert not world.records.applications
    assert not world.processes


def test_a_start_that_was_under_way_is_killed_too() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    world.plan()
    planned = world.plan(crash_after=0)
    world.change(deploy.delete(world.records, "app"))
    stopping = world.plan(crash_after=0)
    world.execute(planned.actions[0])
    for action in stopping.actions:
        world.execute(action)
    world.settle()
    assert not world.processes
    assert not world.records.deployments


def test_nothing_is_freed_before_every_process_has_ended() -> None:
    world = _running()
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    kinds = _kinds(world)
    assert kinds.index("FreePlacement") == len(kinds) - 1


def test_settings_change_in_place() -> None:
    world = _running()
    (before,), version = world.ready_ids(), world.table.version
    world.deploy(a_spec(num_replicas=1, max_ongoing_requests=9))
    world.settle()
    assert world.ready_ids() == [before]
    assert world.table.version == version
    (sent,) = [action for action in world.done if isinstance(action, act.SendReconfigure)]
    assert sent.spec.max_ongoing_requests == 9
    assert world.status().state is DeploymentState.HEALTHY


def test_a_reconfigure_that_raises_takes_nobody_out_and_is_told_until_one_succeeds() -> None:
    world = _running(num_replicas=2)
    before, version = world.ready_ids(), world.table.version
    world.deploy(a_spec(num_replicas=2, user_config=CONFIG))
    world.settle()
    failure = Failure(reason="APPLICATION_ERROR", message="reconfigure() raised ValueError: no such model")
    for replica_id in before:
        world.processes[replica_id].reconfigure_failure = failure
        world.report(replica_id)
    world.settle()
    world.run(5)
    assert (world.ready_ids(), world.table.version) == (before, version)
    status = world.status()
    degraded = _degraded(world)
    assert (degraded.status, degraded.reason) == (True, "ReconfigureFailed")
    assert f"replica {before[0]} and 1 more: {failure.message}" in degraded.message
    assert (status.state, status.message) == (DeploymentState.DEGRADED, degraded.message)
    assert [(replica.failure, replica.in_rotation) for replica in status.replicas] == [(failure, True)] * 2

    for replica_id in before:
        assert _degraded(world).status
        world.processes[replica_id].reconfigure_failure = None
        world.report(replica_id)
        world.settle()
    assert (_degraded(world).status, _degraded(world).reason) == (False, "AsWanted")
    assert world.status().state is DeploymentState.HEALTHY
    assert (world.ready_ids(), world.table.version) == (before, version)
    assert not world.record().failures


def _degraded(world: World) -> Condition:
    (degraded,) = [one for one in world.record().conditions if one.type is ConditionType.DEGRADED]
    return degraded


def test_a_satisfied_state_gives_no_actions() -> None:
    world = _running()
    planned = world.plan()
    assert not planned.changes_records
    assert planned.actions == ()
    assert planned.wake_at is not None


def test_every_action_has_an_id_of_its_own() -> None:
    world = _running()
    world.deploy(a_spec(num_replicas=1, max_ongoing_requests=9))
    world.settle()
    world.deploy(a_spec(num_replicas=0))
    world.settle()
    seen = {action.action_id for action in world.done}
    assert {action_id.partition(":")[0] for action_id in seen} == {"reconfigure", "drain", "free"}
    assert world.table.version >= TableVersion("e", 1)
    assert KEY in world.records.deployments


def test_a_backend_that_forgot_a_placement_is_told_of_it_again() -> None:
    world = _running()
    world.placements.clear()
    world.restart_controller()
    world.settle()
    assert len(world.placements) == 1
    assert world.status().state is DeploymentState.HEALTHY


def test_what_runs_but_never_attached_is_lost_after_the_grace_period() -> None:
    world = _running()
    (old,) = world.ready_ids()
    world.processes[old].silent = True
    world.restart_controller()
    world.settle()
    assert [gang.phase for gang in world.gangs()] == [ReplicaPhase.READY]
    world.advance(10.0)
    world.settle()
    assert old not in world.processes
    assert len(world.ready_ids()) == 1


def test_a_failure_that_is_reported_before_the_process_ends_counts_once() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    (replica_id,) = world.processes
    failure = Failure(reason="CONSTRUCTOR_FAILED", message="boom", time=world.now)
    report = ReplicaReport(phase=ReplicaPhase.STARTING, failure=failure)
    world.tell(events.Reported(replica_id=replica_id, epoch=1, report=report, now=world.now))
    world.settle()
    assert replica_id not in world.processes
    assert world.record().failures == (failure,)
    assert world.record().start_failures == 1
