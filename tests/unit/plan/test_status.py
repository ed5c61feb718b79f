from __future__ import annotations

from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import RouterId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import ClusterStatus, Condition, ConditionType, DeploymentState, RolloutPhase
from serve_core.plan import deploy, events
from serve_core.plan.conditions import with_condition
from serve_core.plan.status import cluster_status
from tests.unit.plan.world import KEY, World, a_spec


def _cluster(world: World, *, application: str = "") -> ClusterStatus:
    return cluster_status(
        world.records,
        world.observed,
        table=world.table.version,
        pid=1,
        version="0.1",
        now=world.now,
        application=application,
    )


def _conditions(world: World) -> dict[ConditionType, Condition]:
    return {condition.type: condition for condition in world.status().conditions}


def test_everything_is_shown() -> None:
    world = World()
    world.add_router("a")
    world.add_router("b")
    world.deploy(a_spec(resources=Resources(cpus=1.5, gpus=0.5)))
    world.settle()
    for process in world.processes.values():
        process.load = Load(1, 1, 5)
    world.settle()
    status = _cluster(world)
    assert (status.table_version, status.table_epoch, status.pid, status.version) == (
        world.table.version.version,
        "e",
        1,
        "0.1",
    )
    (node,) = status.nodes
    assert (node.used.cpus, node.used.gpus, node.total.cpus) == (3.0, 1.0, 8.0)
    assert [router.acknowledged_version for router in status.routers] == [status.table_version] * 2
    (application,) = status.applications
    assert (application.name, application.generation, application.observed_generation) == ("app", 1, 1)
    (deployment,) = application.deployments
    assert (deployment.state, deployment.ready_replicas, deployment.updated_replicas) == (
        DeploymentState.HEALTHY,
        2,
        2,
    )
    assert deployment.message == "2 of 2 replicas are ready"
    replica = deployment.replicas[0]
    assert (replica.phase, replica.load, replica.pid, replica.create_time) == (
        ReplicaPhase.READY,
        Load(1, 1, 5),
        100,
        1000.0,
    )
    assert replica.replica.address


def test_one_application_of_several() -> None:
    world = World()
    world.deploy(a_spec())
    assert len(_cluster(world, application="app").applications) == 1
    assert _cluster(world, application="other").applications == ()


def test_the_observed_generation_lags_until_planned() -> None:
    world = World()
    world.deploy(a_spec())
    assert _cluster(world).applications[0].observed_generation == 0
    assert world.status().conditions, "also before the first plan"
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=3))
    assert _cluster(world).applications[0].observed_generation == 1
    world.settle()
    assert _cluster(world).applications[0].observed_generation == 2


def test_a_change_that_is_not_planned_yet_tells_nothing_of_the_one_before() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=2))
    world.settle()
    before = world.record().target
    world.deploy(a_spec(num_replicas=3, import_path="app:v2"))
    rollout = world.status().rollout
    assert rollout is not None
    assert (rollout.from_revision, rollout.to_revision) == (before, world.record().target)
    assert rollout.phase is RolloutPhase.PROGRESSING
    assert (rollout.updated_available, rollout.waiting_for) == (0, "the controller to plan it")


def test_routers_that_are_lost_are_shown_during_their_lease() -> None:
    world = World()
    world.add_router("a")
    world.settle()
    world.tell(events.RouterLost(router_id=RouterId("a"), now=world.now))
    assert len(_cluster(world).routers) == 1
    world.advance(3.0)
    assert _cluster(world).routers == ()


def test_a_router_of_another_life_has_acknowledged_nothing() -> None:
    world = World()
    world.tell(
        events.RouterSubscribed(
            router_id=RouterId("a"),
            address="x:1",
            http_address="x:2",
            acknowledged=TableVersion("old", 9),
            now=world.now,
        )
    )
    (router,) = _cluster(world).routers
    assert (router.acknowledged_version, router.address, router.http_address) == (0, "x:1", "x:2")


def test_conditions_keep_the_time_of_their_last_change() -> None:
    world = World()
    world.deploy(a_spec())
    world.step()
    started = world.now
    assert _conditions(world)[ConditionType.AVAILABLE].reason == "NoReplicaReady"
    assert _conditions(world)[ConditionType.PROGRESSING].reason == "Starting"
    assert world.status().state is DeploymentState.UPDATING
    world.advance(2.0)
    world.settle()
    conditions = _conditions(world)
    assert (conditions[ConditionType.AVAILABLE].status, conditions[ConditionType.AVAILABLE].last_transition_time) == (
        True,
        started + 2.0,
    )
    assert conditions[ConditionType.PROGRESSING].reason == "Complete"
    assert conditions[ConditionType.DEGRADED] == Condition(
        type=ConditionType.DEGRADED,
        status=False,
        reason="AsWanted",
        message="nothing is wrong",
        last_transition_time=started,
    )


def test_a_loss_is_degraded_until_it_is_made_up() -> None:
    world = World()
    world.deploy(a_spec())
    world.settle()
    world.behaviour["app:v1"] = "hang"
    world.kill(world.ready_ids()[0])
    world.settle()
    assert world.status().state is DeploymentState.DEGRADED
    assert "ended by signal 9" in world.status().message
    assert _conditions(world)[ConditionType.DEGRADED].reason == "ReplicasLost"
    assert _conditions(world)[ConditionType.AVAILABLE].reason == "SomeReplicasReady"
    world.behaviour["app:v1"] = "ready"
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY


def test_what_waits_for_room_says_so_in_its_one_sentence() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=1, resources=Resources(cpus=1000.0)))
    world.settle()
    assert world.status().state is DeploymentState.UPDATING
    assert "a replica waits for room: node-0 lacks 1000 CPUs" in world.status().message


def test_a_failing_start_shows_its_gang_and_the_pause() -> None:
    world = World()
    world.behaviour["app:v1"] = "fail"
    world.deploy(a_spec(num_replicas=1))
    next(step for step in world.steps() if world.record().failures)
    assert world.status().state is DeploymentState.UPDATING
    assert "1 starts in a row failed; last: boom" in world.status().message
    world.settle()
    assert _conditions(world)[ConditionType.PROGRESSING].reason == "BackingOff"


def test_those_who_leave_are_said_to_finish() -> None:
    world = World()
    world.deploy(a_spec())
    world.settle()
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    world.settle()
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.settle()
    assert world.status().state is DeploymentState.UPDATING
    assert world.status().message == "1 replicas are ready; 1 others finish"
    world.change(deploy.delete(world.records, "app"))
    world.settle()
    assert world.status().state is DeploymentState.DELETING
    assert _conditions(world)[ConditionType.PROGRESSING].reason == "Deleting"


def test_a_condition_from_outside() -> None:
    world = World()
    world.deploy(a_spec())
    record = with_condition(
        world.record(), ConditionType.DEGRADED, status=True, reason="PlannerBug", message="x", now=5.0
    )
    again = with_condition(record, ConditionType.DEGRADED, status=True, reason="PlannerBug", message="y", now=6.0)
    assert [(one.reason, one.message, one.last_transition_time) for one in again.conditions] == [
        ("PlannerBug", "y", 5.0)
    ]
