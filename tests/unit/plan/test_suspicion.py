"""Out of rotation and back, without a restart."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.health import HealthPolicy
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ConditionType, DeploymentState
from serve_core.plan import events
from serve_core.plan.policy import Policy
from serve_core.plan.suspicion import in_rotation, silence
from tests.unit.plan.world import World, a_spec


def _running(replicas: int = 2, **changes: object) -> World:
    world = World()
    world.add_router()
    world.deploy(a_spec(num_replicas=replicas, **changes))
    world.settle()
    world.run(60.0, step_s=1.0)
    world.events.clear()
    return world


def _why(world: World, replica_id: ReplicaId, *, policy: Policy | None = None) -> str:
    (member,) = [one for gang in world.gangs() for one in gang.members if one.replica_id == replica_id]
    routable, why = in_rotation(member, world.observed, a_spec(), world.now, policy=policy)
    assert routable is not bool(why)
    return why


def test_one_missed_heartbeat_is_nothing_three_are_suspicion_and_the_next_ends_it() -> None:
    world = _running()
    quiet = world.ready_ids()[0]
    world.processes[quiet].silent = True
    for _ in range(2):
        world.advance(1.0)
        world.settle()
        assert quiet in world.table.replica_ids
    world.advance(1.0)
    world.settle()
    assert quiet not in world.table.replica_ids
    assert quiet in world.processes, "it is not killed"
    assert len(world.gangs()) == 2, "nor replaced"
    world.processes[quiet].silent = False
    world.settle()
    assert quiet in world.table.replica_ids
    assert [(event.reason, event.warning) for event in world.events] == [
        ("ReplicaSuspect", True),
        ("ReplicaBack", False),
    ]


def test_a_suspect_is_shown() -> None:
    world = _running()
    quiet = world.ready_ids()[0]
    world.processes[quiet].silent = True
    world.advance(3.0)
    world.settle()
    status = world.status()
    shown = {one.replica.replica_id: one for one in status.replicas}[quiet]
    assert (shown.phase, shown.in_rotation) == (ReplicaPhase.READY, False)
    assert shown.suspicion == "3 heartbeats of 1 s were missed"
    assert status.ready_replicas == 1
    assert status.state is DeploymentState.DEGRADED
    (degraded,) = [one for one in status.conditions if one.type is ConditionType.DEGRADED]
    assert (degraded.status, degraded.reason) == (True, "OutOfRotation")
    world.processes[quiet].silent = False
    world.settle()
    assert world.status().state is DeploymentState.HEALTHY


def test_a_lost_stream_is_silence_like_any_other() -> None:
    world = _running()
    cut = world.ready_ids()[0]
    world.processes[cut].silent = True
    world.lose_attach(cut)
    world.settle()
    assert cut in world.table.replica_ids
    world.advance(3.0)
    world.settle()
    assert cut not in world.table.replica_ids
    assert cut in world.processes
    world.advance(7.0)
    world.settle()
    assert cut not in world.processes
    assert len(world.ready_ids()) == 2


def test_its_own_word_takes_it_out_and_brings_it_back() -> None:
    world = _running()
    (one, other) = world.ready_ids()
    world.processes[one].is_ready = False
    world.report(one)
    assert _why(world, one) == "its is_ready says no"
    world.settle()
    assert world.table.replica_ids == {other}
    world.run(100.0, step_s=2.0)
    assert set(world.ready_ids()) == {one, other}, "it is not restarted, however long that is so"
    world.processes[one].is_ready = True
    world.report(one)
    world.settle()
    assert world.table.replica_ids == {one, other}
    assert world.told(subject=True) == ["ReplicaNotReady", "ReplicaBack"]


def test_while_it_starts_silence_means_nothing() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1, start_deadline_s=300.0))
    world.settle()
    for process in world.processes.values():
        process.silent = True
    world.run(100.0, step_s=5.0)
    assert not world.told(subject=True)[1:]
    assert len(world.gangs(ReplicaPhase.STARTING)) == 1


def test_why_not() -> None:
    world = _running()
    (one, other) = world.ready_ids()
    assert _why(world, one) == ""
    world.processes[one].healthy = False
    world.report(one)
    assert _why(world, one) == "its health checks fail"
    world.processes[one].phase = ReplicaPhase.DRAINING
    world.report(one)
    assert _why(world, one) == "it says that it is DRAINING"
    world.tell(events.ProcessExited(replica_id=one, epoch=1, exit_code=1, now=world.now))
    assert _why(world, one) == "its process has ended"
    world.advance(3.0)
    assert _why(world, other) == "3 heartbeats of 1 s were missed"
    assert _why(world, other, policy=Policy(patience_s=3.5)) == ""


def test_silence_before_this_controller_listened_proves_nothing() -> None:
    world = _running()
    (one, _) = world.ready_ids()
    seen = world.observed.replicas[one]
    assert silence(seen, a_spec(), world.observed, policy=Policy()) == (world.now + 3.0, world.now + 10.0)
    later = replace(world.observed, listening_since=world.now + 100.0)
    assert silence(seen, a_spec(), later, policy=Policy(reattach_grace_s=5.0)) == (world.now + 105.0, world.now + 110.0)
    spec = a_spec(health=HealthPolicy(heartbeat_period_s=4.0))
    assert silence(seen, spec, world.observed, policy=Policy()) == (world.now + 12.0, world.now + 40.0)


def test_a_restart_of_the_controller_is_no_break() -> None:
    world = _running()
    since = [gang.in_rotation_since for gang in world.gangs()]
    world.advance(5.0)
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert [gang.in_rotation_since for gang in world.gangs()] == since
    assert not world.events


def test_one_that_is_suspect_is_the_first_to_go() -> None:
    world = _running(3)
    quiet = world.ready_ids()[-1]
    world.processes[quiet].silent = True
    world.advance(3.0)
    world.settle()
    world.deploy(a_spec(num_replicas=2))
    world.settle()
    assert quiet not in world.ready_ids()
