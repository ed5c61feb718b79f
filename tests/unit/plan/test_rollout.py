"""From one revision to the next, and what happens when that goes wrong."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from serve_core.model.health import HealthPolicy
from serve_core.model.ids import NodeId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import RolloutPolicy
from serve_core.model.status import ConditionType, DeploymentState
from serve_core.plan import deploy, events
from serve_core.plan.actions import ReservePlacement
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.world import KEY, World, a_spec

V2, V3 = "app:v2", "app:v3"


def _world(*, cpus: float = 8.0, replicas: int = 2) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=cpus)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=replicas))
    world.settle()
    world.advance(100.0)
    world.settle()
    return world


def _reason(world: World, kind: ConditionType) -> tuple[bool, str]:
    (condition,) = [one for one in world.status().conditions if one.type is kind]
    return condition.status, condition.reason


def test_there_are_never_fewer_than_wanted() -> None:
    world = _world()
    world.deploy(a_spec(import_path=V2))
    for _ in world.steps():
        assert sum(world.ready_paths().values()) >= 2
    assert world.ready_paths() == {V2: 2}
    assert world.record().last_good == world.record().target


def test_old_ones_stay_until_every_router_knows_the_new_ones() -> None:
    world = _world()
    (router,) = world.routers.values()
    router.stuck = True
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2, V2: 1}
    assert world.status().state is DeploymentState.UPDATING
    rollout = world.status().rollout
    assert rollout is not None
    assert rollout.waiting_for == f"router r1 to acknowledge table {world.table.version.version}"
    world.remove_router()
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_a_lost_routers_lease_wakes_the_change() -> None:
    world = _world()
    (router,) = world.routers.values()
    router.stuck = True
    world.deploy(a_spec(import_path=V2, health=HealthPolicy(heartbeat_period_s=60.0)))
    world.settle()
    old = [gang for gang in world.gangs() if gang.revision != world.record().target]
    for gang in old:
        world.tell(
            events.HeartbeatSeen(replica_id=gang.members[0].replica_id, epoch=1, load=Load(), now=world.now + 2.0)
        )
    world.tell(events.RouterLost(router_id=router.router_id, now=world.now))
    assert world.plan().wake_at == world.now + 3.0
    world.advance(3.0)
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_where_there_is_no_room_for_all_the_change_goes_one_by_one() -> None:
    world = _world(cpus=3.0)
    world.deploy(a_spec(import_path=V2))
    least = 9
    for _ in world.steps():
        least = min(least, sum(world.ready_paths().values()))
    assert least == 2
    assert world.ready_paths() == {V2: 2}


def test_where_there_is_no_room_at_all_the_status_says_so() -> None:
    world = _world(cpus=2.0)
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    assert world.plans[KEY].blocked == "n lacks 1 CPUs (0 free)"
    assert _reason(world, ConditionType.PROGRESSING) == (True, "WaitingForResources")
    assert "n lacks 1 CPUs" in world.status().conditions[1].message
    assert world.plan().wake_at is not None


def test_a_failed_change_leaves_the_old_revision_in_full() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20)
    status = world.status()
    assert status.state is DeploymentState.HEALTHY
    assert status.message.endswith("failed and is rolled back: boom")
    assert world.ready_paths() == {"app:v1": 2}
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    assert len(world.gangs()) == 2


def test_a_change_that_fails_half_way_stops_the_new_ones_that_run() -> None:
    world = _world(cpus=3.0)
    world.deploy(a_spec(import_path=V2))
    next(step for step in world.steps() if world.ready_paths()[V2])
    world.behaviour[V2] = "fail"
    world.run(30)
    assert _reason(world, ConditionType.PROGRESSING) == (False, "RolledBack")
    assert world.ready_paths() == {"app:v1": 2}


def test_a_deploy_that_was_given_up_stays_so_and_is_tried_again_when_deployed_again() -> None:
    world = _world()
    world.behaviour[V2] = "fail"
    world.deploy(a_spec(import_path=V2))
    world.run(20)
    starts = sum(type(action).__name__ == "StartProcess" for action in world.done)
    world.run(200, step_s=5.0)
    world.restart_controller()
    world.reconnect_routers()
    world.run(20)
    assert sum(type(action).__name__ == "StartProcess" for action in world.done) == starts
    world.behaviour[V2] = "ready"
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_paused_nothing_is_added_and_nothing_leaves() -> None:
    world = _world()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    assert _reason(world, ConditionType.PROGRESSING) == (False, "Paused")
    assert world.status().paused
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.step()
    world.step()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2, V2: 1}
    world.kill(world.ready_ids()[0])
    world.settle()
    assert sum(world.ready_paths().values()) == 2
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_roll_back_and_forth() -> None:
    world = _world()
    world.deploy(a_spec(import_path=V2))
    world.settle()
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_a_roll_back_during_a_change_keeps_what_serves() -> None:
    world = _world()
    before = set(world.ready_ids())
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(import_path=V2))
    world.settle()
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert set(world.ready_ids()) == before
    assert len(world.gangs()) == 2


def _creations(world: World) -> int:
    return sum(isinstance(action, ReservePlacement) for action in world.done)


def _abandoned(world: World) -> ReplicaId:
    """One of the last good revision was lost while one of another was ready, which no router had acknowledged."""
    (router,) = world.routers.values()
    router.stuck = True
    world.deploy(a_spec(import_path=V2))
    world.settle()
    (abandoned,) = [gang.members[0].replica_id for gang in world.gangs() if gang.revision == world.record().target]
    world.kill(next(one for one in world.ready_ids() if one != abandoned))
    world.behaviour[V3] = "hang"
    world.deploy(a_spec(import_path=V3))
    return abandoned


def test_an_abandoned_one_that_a_router_has_yet_to_acknowledge_is_not_made_up_for() -> None:
    world = _world()
    _abandoned(world)
    before = _creations(world)
    world.settle()
    assert world.ready_paths() == {"app:v1": 1, V2: 1}
    assert _creations(world) == before + 1, "only the new revision's"


def test_an_abandoned_one_that_leaves_rotation_while_a_change_is_held_is_not_made_up_for() -> None:
    world = _world()
    abandoned = _abandoned(world)
    world.change(deploy.pause(world.records, KEY, paused=True))
    for router in world.routers.values():
        router.stuck = False
    world.settle()
    world.processes[abandoned].is_ready = False
    world.report(abandoned)
    before = _creations(world)
    world.settle()
    assert len(world.gangs(ReplicaPhase.READY)) == 2
    assert _creations(world) == before


def test_a_new_controller_that_no_router_has_come_back_to_starts_nothing() -> None:
    world = _world()
    world.deploy(a_spec(import_path=V2, rollout=RolloutPolicy(pause_at=Share(1))))
    world.settle()
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.ready_paths() == {"app:v1": 1, V2: 1}
    before = _creations(world)
    world.restart_controller()
    world.settle()
    assert world.ready_paths() == {"app:v1": 1, V2: 1}
    assert _creations(world) == before


def test_of_three_revisions_only_the_last_is_left() -> None:
    world = _world()
    world.deploy(a_spec(import_path=V2))
    world.step()
    world.step()
    world.deploy(a_spec(import_path="app:v3"))
    world.settle()
    assert world.ready_paths() == {"app:v3": 2}
    assert len(world.gangs()) == 2


def test_the_first_deploy_that_fails_is_given_up_with_the_users_message() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=1))
    world.run(5)
    status = world.status()
    assert status.state is DeploymentState.DEPLOY_FAILED
    assert status.start_failures == 3
    assert status.message.endswith("was given up: boom")
    assert not world.gangs()
    assert world.plan().wake_at is None
    world.add_router()
    world.settle()
    change = world.table.change_since(None)
    assert change is not None
    (route,) = change.upserted_deployments
    assert not route.available
    assert "boom" in route.message


def test_what_is_ready_of_a_first_deploy_that_fails_goes_on() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=2))
    world.plan()
    world.plan()
    first, second = sorted(world.processes)
    world.processes[second].silent = True
    world.settle()
    assert world.ready_ids() == [first]
    world.behaviour["app:v1"] = "fail"
    world.kill(second)
    world.run(10)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert world.ready_ids() == [first]


def test_what_ran_whole_once_is_never_given_up() -> None:
    world = _world(replicas=1)
    world.behaviour["app:v1"] = "fail"
    world.kill(world.ready_ids()[0])
    world.run(60)
    assert world.record().terminal is None
    assert world.record().start_failures >= 5
    assert world.status().state is DeploymentState.DEGRADED
    assert _reason(world, ConditionType.DEGRADED) == (True, "StartFailing")
    world.behaviour["app:v1"] = "ready"
    world.run(40)
    assert world.status().state is DeploymentState.HEALTHY


def test_waits_between_tries_grow_and_are_spread() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=1, max_start_failures=6))
    while world.now < 1040:
        world.settle()
        world.advance(0.05)
    starts = [line for line in world.log if "is created" in line]
    times = [float(line.split()[0]) for line in starts]
    gaps = [round(after - before, 1) for before, after in pairwise(times)]
    assert gaps == [0.5, 1.0, 1.8, 3.7, 7.2]


def test_a_crash_is_replaced_at_once_but_a_series_is_slowed_down() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    for _ in range(50):
        for replica_id in world.ready_ids():
            world.kill(replica_id)
        world.advance(0.2)
        world.settle()
    starts = sum(type(action).__name__ == "StartProcess" for action in world.done)
    assert 4 <= starts <= 8
    assert world.record().terminal is None
    world.run(60)
    assert world.status().state is DeploymentState.HEALTHY
    assert not world.record().impaired
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.ready_ids(), "one that ran for long is replaced at once"


def test_scaling_up_and_down_in_whole_gangs() -> None:
    world = _world()
    world.change(deploy.scale(world.records, KEY, num_replicas=5))
    world.settle()
    assert len(world.ready_ids()) == 5
    busy = world.ready_ids()[-1]
    world.processes[busy].load = Load(3, 0, 5)
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert world.ready_ids() == [busy]


def test_those_that_are_not_ready_go_first() -> None:
    world = _world(replicas=2)
    before = set(world.ready_ids())
    world.behaviour["app:v1"] = "hang"
    world.change(deploy.scale(world.records, KEY, num_replicas=4))
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=2))
    world.settle()
    assert set(world.ready_ids()) == before
    assert len(world.gangs()) == 2


def test_of_equals_the_newest_goes_first() -> None:
    world = _world(replicas=1)
    (oldest,) = world.ready_ids()
    world.change(deploy.scale(world.records, KEY, num_replicas=2))
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert world.ready_ids() == [oldest]


def test_to_nothing_and_back() -> None:
    world = _world()
    world.change(deploy.scale(world.records, KEY, num_replicas=0))
    world.settle()
    assert not world.processes
    assert world.status().state is DeploymentState.HEALTHY
    assert _reason(world, ConditionType.AVAILABLE) == (False, "ScaledToZero")
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_a_removed_deployment_drains_and_is_forgotten() -> None:
    world = _world()
    world.deploy(a_spec(), a_spec(name="other"))
    world.settle()
    assert len(world.processes) == 4
    world.deploy(a_spec())
    world.settle()
    assert len(world.processes) == 2
    assert list(world.records.deployments) == [KEY]


def test_what_is_deployed_while_it_is_removed_comes_back() -> None:
    world = _world()
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    world.settle()
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert world.status().state is DeploymentState.DELETING
    assert len(world.gangs(ReplicaPhase.DRAINING)) == 2
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {V2: 2}
    assert len(world.gangs()) == 4


def test_a_revision_that_is_not_kept_is_not_started() -> None:
    world = _world()
    record = replace(world.record(), last_good=type(world.record().target)("lost"))
    world.records = replace(world.records, deployments={KEY: record})
    for replica_id in world.ready_ids():
        world.kill(replica_id)
    world.behaviour["app:v1"] = "hang"
    world.settle()
    assert {gang.revision for gang in world.gangs()} == {record.target}
