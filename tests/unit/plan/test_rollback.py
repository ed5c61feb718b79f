"""What becomes of a change of revision that fails."""

from __future__ import annotations

import pytest

from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import OnFailure, RolloutPolicy
from serve_core.model.status import DeploymentState, RolloutPhase, RolloutStatus
from serve_core.plan import deploy, endpoints
from serve_core.plan.observed import NodeObserved
from serve_core.plan.revision import revision_id
from tests.unit.plan.world import KEY, World, a_spec

V2, V3 = "app:v2", "app:v3"
FIRST = revision_id(a_spec())
SECOND = revision_id(a_spec(import_path=V2))


def _world(replicas: int = 2, *, cpus: float = 8.0, **changes: object) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=cpus)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=replicas, **changes))
    world.settle()
    world.advance(100.0)
    world.settle()
    world.events.clear()
    return world


def _rollout(world: World) -> RolloutStatus:
    rollout = world.status().rollout
    assert rollout is not None
    return rollout


def _starts(world: World) -> int:
    return sum(type(action).__name__ == "StartProcess" for action in world.done)


def test_what_is_deployed_before_its_removal_began_goes_back_to_what_still_serves() -> None:
    world = _world()
    before = set(world.ready_ids())
    world.behaviour[V2] = "fail"
    world.change(deploy.delete(world.records, "app"))
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    status, rollout = world.status(), _rollout(world)
    assert set(world.ready_ids()) == before
    assert (status.state, status.revision, status.last_good_revision) == (DeploymentState.HEALTHY, FIRST, FIRST)
    assert (rollout.phase, rollout.failed_revision) == (RolloutPhase.ROLLED_BACK, SECOND)


def test_what_is_deployed_while_it_drains_does_not_go_back_to_what_leaves() -> None:
    world = _world()
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    world.settle()
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert not world.ready_ids()


def test_starts_that_fail_put_the_last_good_revision_back() -> None:
    world = _world()
    before = set(world.ready_ids())
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    status, rollout = world.status(), _rollout(world)
    assert set(world.ready_ids()) == before
    assert (status.state, status.revision, status.last_good_revision) == (DeploymentState.HEALTHY, FIRST, FIRST)
    assert rollout.phase is RolloutPhase.ROLLED_BACK
    assert (rollout.from_revision, rollout.to_revision, rollout.failed_revision) == (SECOND, FIRST, SECOND)
    assert rollout.failure is not None
    assert (rollout.failure.message, rollout.failure.traceback) == ("boom", "Traceback")
    assert world.told() == ["RolloutStarted", "RolloutFailed", "RolledBack"]
    (failed,) = [event for event in world.events if event.reason == "RolloutFailed"]
    assert failed.warning
    assert "boom" in failed.message


def test_a_failure_is_counted_once_for_a_gang_and_the_limit_is_the_deployments() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    started = _starts(world)
    world.deploy(a_spec(import_path=V2, max_start_failures=2))
    world.run(20.0)
    assert _starts(world) - started == 2
    assert world.told(subject=True).count("GangFailed") == 2


def test_a_hung_constructor_ends_at_its_deadline() -> None:
    world = _world()
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(import_path=V2, start_deadline_s=20.0, max_start_failures=2))
    world.run(60.0)
    rollout = _rollout(world)
    assert rollout.phase is RolloutPhase.ROLLED_BACK
    assert rollout.failure is not None
    assert rollout.failure.reason == "START_TIMED_OUT"
    assert world.ready_paths() == {"app:v1": 2}


def test_one_that_is_never_ready_by_its_own_word_ends_at_the_same_deadline() -> None:
    world = _world()
    world.behaviour[V2] = "never"
    world.deploy(a_spec(import_path=V2, start_deadline_s=20.0, max_start_failures=2))
    world.settle()
    for _ in range(100):
        for replica_id, process in world.processes.items():
            if process.action.spec.import_path == V2 and process.attached:
                process.phase, process.is_ready = process.phase.READY, False
                world.report(replica_id)
        world.settle()
        world.advance(0.5)
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK
    assert world.ready_paths() == {"app:v1": 2}


def test_health_that_fails_again_and_again_ends_it() -> None:
    world = _world(1)
    policy = RolloutPolicy(min_ready_s=5.0)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy, max_start_failures=2))
    for _ in range(60):
        world.settle()
        for replica_id, process in world.processes.items():
            if process.action.spec.import_path == V2 and replica_id in world.ready_ids() and process.healthy:
                process.healthy = False
                world.report(replica_id)
        world.advance(0.5)
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK
    assert world.ready_paths() == {"app:v1": 1}


def test_losses_between_which_it_gets_on_do_not_end_it() -> None:
    world = _world(6)
    world.deploy(a_spec(num_replicas=6, import_path=V2, max_start_failures=2))
    lost = 0
    for _ in world.steps():
        new = [one for one in world.ready_ids() if world.processes[one].action.spec.import_path == V2]
        if lost < len(new) < 6 and len(world.table.replica_ids & set(new)) == len(new):
            world.kill(new[-1])
            lost += 1
    assert lost >= 2
    world.run(20.0)
    assert world.ready_paths() == {V2: 6}


def test_without_progress_the_deadline_ends_it_and_says_what_it_waited_for() -> None:
    world = _world(cpus=2.0)
    world.deploy(a_spec(import_path=V2, rollout=RolloutPolicy(progress_deadline_s=60.0)))
    world.settle()
    assert _rollout(world).progress_deadline_time == world.now + 60.0
    world.run(59.0, step_s=5.0)
    world.advance(5.0)
    world.settle()
    rollout = _rollout(world)
    assert rollout.phase is RolloutPhase.ROLLED_BACK
    assert rollout.failure is not None
    assert rollout.failure.message == (
        "no progress within progress_deadline_s = 60 s; it waited for room: n lacks 1 CPUs (0 free)"
    )
    assert rollout.progress_deadline_time is None


def test_the_deadline_wakes_the_planner() -> None:
    world = _world(1)
    world.behaviour[V2] = "hang"
    policy = RolloutPolicy(progress_deadline_s=2.0)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy))
    world.settle()
    assert world.plan().wake_at == world.now + 2.0


def test_a_controller_that_was_away_is_no_lack_of_progress() -> None:
    world = _world(1)
    world.behaviour[V2] = "hang"
    policy = RolloutPolicy(progress_deadline_s=20.0)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy, start_deadline_s=900.0))
    world.settle()
    world.advance(500.0)
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert _rollout(world).phase is RolloutPhase.PROGRESSING
    world.advance(20.0)
    world.settle()
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK


def test_counts_survive_a_restart_of_the_controller() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    started = _starts(world)
    world.deploy(a_spec(import_path=V2, max_start_failures=3))
    for _ in range(20):
        world.settle()
        world.restart_controller()
        world.reconnect_routers()
        world.run(3.0)
    assert _starts(world) - started == 3
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK


def test_deployed_again_it_is_tried_again() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    started = _starts(world)
    world.run(200.0, step_s=10.0)
    assert _starts(world) == started
    world.behaviour.clear()
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {V2: 2}
    assert _rollout(world).phase is RolloutPhase.COMPLETE
    assert world.status().message == "2 of 2 replicas are ready"


def test_the_good_one_deployed_again_is_no_change() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    assert world.deploy(a_spec()).saved_deployments == ()


def test_undo_does_not_lead_to_what_failed_if_there_is_another() -> None:
    world = _world()
    world.deploy(a_spec(import_path=V3))
    world.settle()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20.0)
    assert world.ready_paths() == {V3: 2}
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}


def test_half_way_the_good_one_is_made_whole_again() -> None:
    world = _world(4, cpus=5.0)
    world.deploy(a_spec(num_replicas=4, import_path=V2))
    next(step for step in world.steps() if world.ready_paths()[V2] == 2)
    world.behaviour[V2] = "fail"
    while world.record().target == SECOND:
        if not world.step():
            world.advance(0.5)
        assert sum(world.ready_paths().values()) >= 4
    assert _rollout(world).phase is RolloutPhase.ROLLING_BACK
    for _ in world.steps():
        assert sum(world.ready_paths().values()) >= 4
    assert world.ready_paths() == {"app:v1": 4}
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK


def test_the_backoff_of_the_failed_one_does_not_slow_the_way_back() -> None:
    world = _world(2, cpus=3.0)
    world.deploy(a_spec(import_path=V2, max_start_failures=1))
    next(step for step in world.steps() if world.ready_paths()[V2])
    world.behaviour[V2] = "fail"
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}


def test_held_all_stays_where_it_is() -> None:
    world = _world(2, cpus=3.0)
    hold = RolloutPolicy(on_failure=OnFailure.HOLD)
    world.deploy(a_spec(import_path=V2, rollout=hold))
    next(step for step in world.steps() if world.ready_paths()[V2])
    world.behaviour[V2] = "fail"
    world.run(30.0)
    status, rollout = world.status(), _rollout(world)
    assert (status.state, rollout.phase) == (DeploymentState.DEPLOY_FAILED, RolloutPhase.FAILED)
    assert (status.revision, status.last_good_revision, rollout.failed_revision) == (SECOND, FIRST, SECOND)
    assert sum(world.ready_paths().values()) >= 2
    assert world.told()[-1] == "RolloutFailed"
    started = _starts(world)
    world.run(100.0, step_s=5.0)
    assert _starts(world) == started
    route = endpoints.build(world.records, world.observed, now=world.now)[0][0]
    assert route.available


@pytest.mark.parametrize("verb", ["resume", "undo", "deploy"])
def test_held_it_goes_on_when_somebody_says_so(verb: str) -> None:
    world = _world()
    hold = RolloutPolicy(on_failure=OnFailure.HOLD)
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2, rollout=hold))
    world.run(20.0)
    assert _rollout(world).phase is RolloutPhase.FAILED
    world.behaviour.clear()
    if verb == "resume":
        world.change(deploy.pause(world.records, KEY, paused=False))
    elif verb == "undo":
        world.change(deploy.roll_back(world.records, KEY))
    else:
        world.deploy(a_spec(import_path=V2, rollout=hold))
    world.settle()
    assert world.ready_paths() == ({"app:v1": 2} if verb == "undo" else {V2: 2})
    assert _rollout(world).phase is RolloutPhase.COMPLETE
    assert world.status().state is DeploymentState.HEALTHY


def test_a_first_deploy_that_fails_says_so_at_once_and_a_next_one_clears_it() -> None:
    world = World()
    world.add_router()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=1, rollout=RolloutPolicy(progress_deadline_s=60.0)))
    world.run(10.0)
    assert _rollout(world).phase is RolloutPhase.FAILED
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    route = endpoints.build(world.records, world.observed, now=world.now)[0][0]
    assert not route.available
    world.deploy(a_spec(num_replicas=1, import_path=V2))
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert world.told() == ["RolloutStarted", "RolloutFailed", "RolloutStarted", "RolloutComplete"]


def test_a_first_deploy_that_hangs_has_the_deadline_too() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1, start_deadline_s=900.0, rollout=RolloutPolicy(progress_deadline_s=60.0)))
    world.run(61.0, step_s=5.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert "no progress" in world.status().message


def test_but_not_while_it_waits_for_room_that_others_hold() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=1.0)),))
    other = a_spec(name="other", num_replicas=1)
    world.deploy(other)
    world.settle()
    main = a_spec(num_replicas=1, rollout=RolloutPolicy(progress_deadline_s=60.0))
    world.deploy(main, other)
    world.run(200.0, step_s=5.0)
    assert _rollout(world).phase is RolloutPhase.WAITING
    world.deploy(main)
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY


def test_a_first_deploy_for_which_there_never_is_room_fails_at_the_deadline_and_says_why() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=0.5)),))
    world.deploy(a_spec(num_replicas=1, rollout=RolloutPolicy(progress_deadline_s=60.0)))
    world.run(50.0, step_s=5.0)
    assert _rollout(world).phase is RolloutPhase.WAITING
    world.run(15.0, step_s=5.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert (
        "no progress within progress_deadline_s = 60 s; it waited for room: n lacks 1 CPUs (0.5 free)"
        in world.status().message
    )


def test_room_that_comes_in_time_starts_the_deadline_anew() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=0.5)),))
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1, start_deadline_s=900.0, rollout=RolloutPolicy(progress_deadline_s=60.0)))
    world.run(50.0, step_s=5.0)
    world.nodes = (NodeObserved(node_id=NodeId("n"), total=Resources(cpus=2.0)),)
    world.list_backend()
    world.run(55.0, step_s=5.0)
    assert world.status().state is DeploymentState.UPDATING
    world.run(10.0, step_s=5.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED


def test_a_first_deploy_that_comes_up_after_it_was_given_up_is_good() -> None:
    world = World()
    world.add_router().stuck = True
    world.deploy(a_spec(num_replicas=1, rollout=RolloutPolicy(progress_deadline_s=30.0)))
    world.run(40.0, step_s=5.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    next(iter(world.routers.values())).stuck = False
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY
    assert _rollout(world).phase is RolloutPhase.COMPLETE


def test_an_automatic_roll_back_is_not_held_by_a_pause() -> None:
    world = _world(4, rollout=RolloutPolicy(max_surge=Share(2)))
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(num_replicas=4, import_path=V2, max_start_failures=1, start_deadline_s=10.0))
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.run(20.0)
    assert world.ready_paths() == {"app:v1": 4}
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK
    assert len(world.gangs()) == 4


def test_held_what_still_comes_up_of_the_failed_one_is_stopped() -> None:
    world = _world(4)
    hold = RolloutPolicy(on_failure=OnFailure.HOLD, max_surge=Share(2))
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(num_replicas=4, import_path=V2, rollout=hold, max_start_failures=1))
    world.settle()
    starting = [one for one, process in world.processes.items() if process.action.spec.import_path == V2]
    assert len(starting) == 2
    world.kill(starting[0])
    world.settle()
    assert _rollout(world).phase is RolloutPhase.FAILED
    assert world.ready_paths() == {"app:v1": 4}
    assert len(world.processes) == 4


def test_what_failed_is_forgotten_on_the_way_back() -> None:
    policy = RolloutPolicy(pause_at=Share(1), max_surge=Share(2))
    world = _world(4)
    world.deploy(a_spec(num_replicas=4, import_path=V2, rollout=policy, max_start_failures=1))
    world.settle()
    assert world.status().paused
    (new,) = [one for one in world.ready_ids() if world.processes[one].action.spec.import_path == V2]
    world.kill(new)
    world.settle()
    record = world.record()
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK
    assert (record.paused, record.start_failures, record.retry_at, record.vacant_places) == (False, 0, 0.0, ())
    assert {gang.restarts for gang in world.gangs()} == {0}


def test_failures_of_one_that_ran_for_nothing_do_not_end_it_once_it_has_come_up() -> None:
    world = _world(0)
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert not world.record().unproven
    world.behaviour["app:v1"] = "fail"
    world.kill(world.ready_ids()[0])
    world.run(60.0, step_s=5.0)
    assert world.record().terminal is None


@pytest.mark.parametrize("on_failure", OnFailure)
def test_what_never_ran_is_not_gone_back_to_though_another_came_up_since(on_failure: OnFailure) -> None:
    world = _world(0)
    world.behaviour["app:v1"] = "hang"
    half = RolloutPolicy(pause_at=Share(50, percent=True))
    world.deploy(a_spec(num_replicas=4, import_path=V2, rollout=half))
    world.settle()
    before = world.ready_paths()
    assert before == {V2: 2}
    world.behaviour[V3] = "fail"
    policy = RolloutPolicy(on_failure=on_failure)
    world.deploy(a_spec(num_replicas=4, import_path=V3, rollout=policy, max_start_failures=1))
    world.run(60.0, step_s=2.0)
    record, started = world.record(), _starts(world)
    assert (record.target_spec.import_path, record.last_good) == (V3, None)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert world.ready_paths() == before
    world.run(60.0, step_s=2.0)
    assert _starts(world) == started


def test_what_was_last_good_for_nothing_is_gone_back_to_once_it_has_come_up_beside_the_target() -> None:
    world = _world(0)
    world.behaviour.update({"app:v1": "hang", V2: "fail"})
    world.change(deploy.scale(world.records, KEY, num_replicas=2))
    world.settle()
    world.deploy(a_spec(import_path=V2))
    world.step()
    del world.behaviour["app:v1"]
    world.run(20.0)
    assert _rollout(world).phase is RolloutPhase.ROLLED_BACK
    assert world.ready_paths() == {"app:v1": 2}


def test_what_serves_is_replaced_without_regard_to_the_failures_of_what_is_to_come() -> None:
    world = _world(2)
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2, max_start_failures=50))
    while world.record().start_failures < 7:
        world.settle()
        world.advance(0.5)
    assert world.record().retry_at > world.now + 5.0
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
