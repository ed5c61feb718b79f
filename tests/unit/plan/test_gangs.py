"""A gang through its life: started together, told of each other, ended together, and one failure whatever its members do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_core.model.gang import GangPolicy, GangRoster
from serve_core.model.ids import NodeId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.model.status import DeploymentState
from serve_core.plan import actions as act
from serve_core.plan import events
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.records import GangRecord
from serve_core.plan.roster import roster
from tests.unit.plan.world import KEY, World, a_spec

NODES = tuple(NodeObserved(node_id=NodeId(f"n{number}"), total=Resources(cpus=2.0)) for number in range(8))


def _spec(gangs: int = 1, size: int = 4, **changes: object) -> DeploymentSpec:
    policy = GangPolicy(size=size, **changes)  # type: ignore[arg-type]
    return a_spec(num_replicas=gangs * size, gang=policy, max_start_failures=3)


def _world(spec: DeploymentSpec | None = None) -> World:
    world = World(nodes=NODES)
    world.add_router()
    world.deploy(spec or _spec())
    return world


def _ready(spec: DeploymentSpec | None = None) -> World:
    world = _world(spec)
    world.settle()
    world.run(60.0, step_s=5.0)
    return world


def _done(world: World, kind: type[act.Action]) -> list[act.Action]:
    return [action for action in world.done if isinstance(action, kind)]


def _rosters(world: World) -> list[GangRoster]:
    return [action.roster for action in world.done if isinstance(action, act.SendRoster)]


def _ids(gang: GangRecord) -> list[ReplicaId]:
    return [member.replica_id for member in gang.members]


# Together.


def test_all_members_start_in_one_plan_and_enter_the_table_in_one_version() -> None:
    world = _world()
    sizes: set[int] = set()
    for _ in world.steps():
        sizes.add(len(world.table.replica_ids))
        starts = len(_done(world, act.StartProcess))
        assert starts in (0, 4)
    assert sizes == {0, 4}
    (gang,) = world.gangs(ReplicaPhase.READY)
    assert [member.rank for member in gang.members] == [0, 1, 2, 3]


def test_nobody_loads_before_everybody_listens() -> None:
    world = _world()
    world.step()
    world.step()
    slow = world.gangs()[0].members[3].replica_id
    world.processes[slow].silent = True
    world.settle()
    assert _rosters(world) == []
    assert {process.phase for process in world.processes.values()} == {ReplicaPhase.STARTING}
    world.processes[slow].silent = False
    world.settle()
    assert len(_rosters(world)) == 4
    assert len(world.ready_ids()) == 1


def test_no_member_is_routed_to_before_all_are_ready() -> None:
    world = _world()
    world.behaviour["app:v1"] = "hang"
    world.settle()
    for member in world.gangs()[0].members[:3]:
        world.processes[member.replica_id].phase = ReplicaPhase.READY
        world.report(member.replica_id)
    world.settle()
    (gang,) = world.gangs(ReplicaPhase.STARTING)
    assert [member.phase.name for member in gang.members] == ["READY", "READY", "READY", "STARTING"]
    assert world.table.replica_ids == set()


def test_the_roster_says_who_is_where() -> None:
    world = _world(_spec(roles=("lead", "work", "work", "work")))
    world.settle()
    known = _rosters(world)[0]
    (gang,) = world.gangs()
    assert known == roster(gang, world.record().target_spec.gang, world.observed)
    assert [member.replica_id for member in known.members] == _ids(gang)
    assert [(one.rank, one.role, one.local_rank, one.local_size, one.node_rank) for one in known.members] == [
        (0, "lead", 0, 2, 0),
        (1, "work", 1, 2, 0),
        (2, "work", 0, 2, 1),
        (3, "work", 1, 2, 1),
    ]
    leader = world.processes[_ids(gang)[0]]
    assert known.members[0].address == f"127.0.0.1:{leader.pid}"
    assert (known.rendezvous_host, known.rendezvous_port) == ("127.0.0.1", leader.pid)
    assert known.environment(3) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(leader.pid),
    }


@pytest.mark.parametrize(("address", "host"), [("[::1]:80", "::1"), ("10.0.0.1:80", "10.0.0.1")])
def test_a_host_is_what_others_can_connect_to(address: str, host: str) -> None:
    world = _world()
    world.settle()
    (gang,) = world.gangs()
    first = gang.members[0].replica_id
    report = world.observed.replicas[first].report
    assert report is not None
    world.tell(events.Reported(replica_id=first, epoch=1, report=replace(report, address=address), now=world.now))
    known = roster(gang, GangPolicy(size=4), world.observed)
    assert known is not None
    assert known.rendezvous_host == host


def test_a_roster_is_sent_once_and_again_over_a_new_stream_if_it_was_lost() -> None:
    world = _world()
    world.step()
    for process in world.processes.values():
        process.silent = False
    while not _rosters(world):
        world.step()
    (first, *_) = _ids(world.gangs()[0])
    process = world.processes[first]
    process.heard = process.roster  # It never came.
    world.lose_attach(first)
    world.settle()
    assert len([one for one in world.done if isinstance(one, act.SendRoster) and one.replica_id == first]) == 2
    assert len(_rosters(world)) == 5
    assert len(world.gangs(ReplicaPhase.READY)) == 1


def test_a_replica_that_is_alone_needs_no_roster() -> None:
    world = _ready(_spec(2, 1))
    assert _rosters(world) == []
    assert len(world.ready_ids()) == 2


# Start failures.


@pytest.mark.parametrize("failing", [1, 2, 4])
@pytest.mark.parametrize("how", ["fail", "exit"])
def test_a_failed_start_is_one_failure_however_many_members_fail(how: str, failing: int) -> None:
    world = _world(replace(_spec(), max_start_failures=9))
    world.step()
    world.step()
    gang = world.gangs()[0]
    for replica_id in _ids(gang)[:failing]:
        if how == "exit":
            world.kill(replica_id, exit_code=3)
        else:
            world.processes[replica_id].healthy = False
            world.report(replica_id)
    world.plan()
    assert world.record().start_failures == 1
    assert len(world.record().failures) == 1
    assert world.record().failures[0].message.startswith(f"rank 0 of 4 ({_ids(gang)[0]}): ")
    world.plan()
    world.plan()
    assert gang.gang_id not in world.placements, "what it held is free"
    assert not set(_ids(gang)) & set(world.processes), "its siblings are stopped"
    world.run(5.0)
    assert [len(one.members) for one in world.gangs(ReplicaPhase.READY)] == [4]


def test_what_failed_first_is_the_cause() -> None:
    world = _world()
    for _ in range(3):
        world.step()
    first, second, *_ = _ids(world.gangs()[0])
    world.advance(1.0)
    world.behaviour["app:v1"] = "hang"
    for number, replica_id in ((2.0, first), (1.0, second)):
        process = world.processes[replica_id]
        report = world.observed.replicas[replica_id].report
        assert report is not None
        failure = Failure(reason="CONSTRUCTOR_FAILED", message=f"at {number}", time=world.now + number)
        world.tell(
            events.Reported(replica_id=replica_id, epoch=1, report=replace(report, failure=failure), now=world.now)
        )
        assert process.phase is ReplicaPhase.STARTING
    world.plan()
    assert world.record().failures[0].message == f"rank 1 of 4 ({second}): at 1.0"


def test_starts_that_keep_failing_are_given_up_after_as_many_gangs_as_may_fail() -> None:
    world = _world(_spec(2))
    world.behaviour["app:v1"] = "fail"
    world.run(30.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    assert 3 <= len({action.gang_id for action in _done(world, act.StartProcess)}) <= 4
    assert world.processes == {}
    assert world.placements == set()


def test_the_deadline_is_the_gangs() -> None:
    world = _world(_spec(start_deadline_s=7.0))
    for _ in range(3):
        world.step()
    late = _ids(world.gangs()[0])[2]
    world.processes[late].silent = True
    world.behaviour["app:v1"] = "hang"
    world.settle()
    world.advance(8.0)
    world.settle()
    assert world.record().failures == ()
    world.advance(1.1)
    world.plan()
    (failure,) = world.record().failures
    assert failure.reason == "START_TIMED_OUT"
    assert "gang.start_deadline_s = 7 s" in failure.message


def test_a_member_that_was_not_started_when_the_controller_died_is_started_by_the_next() -> None:
    world = _world()
    world.step()
    world.restart_controller()
    world.reconnect_routers()
    world.plan()
    (gang,) = world.gangs()
    assert gang.phase is ReplicaPhase.STARTING
    for replica_id in _ids(gang)[1:]:
        del world.processes[replica_id]  # As if these starts had never been executed.
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert [one.gang_id for one in world.gangs(ReplicaPhase.READY)] == [gang.gang_id]
    assert world.record().failures == ()


def test_a_member_that_was_lost_after_the_others_were_told_of_it_is_not_started_again_in_their_back() -> None:
    world = _world()
    world.behaviour["app:v1"] = "hang"
    world.settle()
    assert len(_rosters(world)) == 4
    (gang,) = world.gangs(ReplicaPhase.STARTING)
    del world.processes[_ids(gang)[2]]
    world.restart_controller()
    world.reconnect_routers()
    world.plan()
    assert gang.gang_id in {one.gang_id for one in world.gangs()}, "the others are asked first"
    assert len(world.processes) == 3
    world.settle()
    assert world.record().start_failures == 1
    assert world.record().failures[0].message.startswith("rank 2 of 4")
    world.behaviour.clear()
    world.run(10.0)
    assert len(world.gangs(ReplicaPhase.READY)) == 1


# The end.


def test_nobody_ends_while_another_member_has_work() -> None:
    world = _ready()
    (gang,) = world.gangs()
    busy = _ids(gang)[1]
    world.processes[busy].load = Load(1, 0, 5)
    world.report(busy)
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    assert len(world.processes) == 4
    assert all(process.held for process in world.processes.values())
    world.processes[busy].load = Load(0, 0, 5)
    world.settle()
    assert world.processes == {}
    assert world.gangs() == []


def test_a_drain_ends_with_its_budget_whatever_a_member_does() -> None:
    world = _ready()
    (gang,) = world.gangs()
    world.processes[_ids(gang)[1]].load = Load(1, 0, 5)
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    world.advance(6.9)
    world.settle()
    assert len(world.processes) == 4
    world.advance(0.2)
    world.settle()
    assert world.processes == {}


def test_a_member_that_dies_while_its_gang_drains_holds_nobody_up() -> None:
    world = _ready()
    (gang,) = world.gangs()
    busy = _ids(gang)[3]
    world.processes[busy].load = Load(1, 0, 5)
    world.report(busy)
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    world.kill(busy)
    world.settle()
    assert world.processes == {}


def test_a_drain_goes_on_under_the_next_controller() -> None:
    world = _ready()
    (gang,) = world.gangs()
    busy = _ids(gang)[1]
    world.processes[busy].load = Load(1, 0, 5)
    world.report(busy)
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    world.restart_controller()
    world.reconnect_routers()
    world.run(4.0)
    assert len(world.processes) == 4
    world.processes[busy].load = Load(0, 0, 5)
    world.report(busy)
    world.settle()
    assert world.processes == {}


def test_removing_a_deployment_whose_gang_starts_ends_it_at_once() -> None:
    world = _world()
    world.behaviour["app:v1"] = "hang"
    world.settle()
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    assert world.processes == {}
    assert world.placements == set()
    assert KEY in world.records.deployments


def test_a_placement_is_held_as_long_as_one_member_runs() -> None:
    world = _ready()
    (gang,) = world.gangs()
    for replica_id in _ids(gang):
        world.processes[replica_id].deaf = True
    world.deploy(replace(_spec(), num_replicas=0))
    world.settle()
    for replica_id in _ids(gang)[:3]:
        world.kill(replica_id)
    world.settle()
    assert world.placements == {gang.gang_id}
    world.kill(_ids(gang)[3])
    world.settle()
    assert world.placements == set()


def test_what_changes_in_place_restarts_nobody_and_reaches_every_member() -> None:
    world = _ready(_spec(2))
    before = {replica_id: process.pid for replica_id, process in world.processes.items()}
    world.deploy(replace(_spec(2, max_restarts=3, abort_in_flight=True), max_ongoing_requests=9))
    world.settle()
    assert {replica_id: process.pid for replica_id, process in world.processes.items()} == before
    told = [action.replica_id for action in world.done if isinstance(action, act.SendReconfigure)]
    assert sorted(told) == sorted(before)
    assert world.record().target_spec.gang.max_restarts == 3


def test_what_comes_up_of_a_revision_that_is_abandoned_stops_first() -> None:
    world = _ready(_spec(2))
    world.behaviour["app:v2"] = "hang"
    world.deploy(replace(_spec(2), import_path="app:v2"))
    world.settle()
    (coming,) = world.gangs(ReplicaPhase.STARTING)
    world.deploy(replace(_spec(2), import_path="app:v3"))
    world.plan()
    assert coming.gang_id not in {gang.gang_id for gang in world.gangs(ReplicaPhase.STARTING)}
    for _ in world.steps():
        assert len(world.table.replica_ids) >= 8
    assert world.ready_paths() == {"app:v3": 2}


def test_a_revision_that_was_given_up_starts_nothing_until_it_is_deployed_again() -> None:
    world = _world(_spec(1))
    world.behaviour["app:v1"] = "fail"
    world.run(30.0)
    assert world.status().state is DeploymentState.DEPLOY_FAILED
    done = len(world.done)
    world.run(100.0, step_s=5.0)
    assert len(world.done) == done
    world.behaviour.clear()
    world.deploy(_spec(1))
    world.run(5.0)
    assert world.status().state is DeploymentState.HEALTHY


def test_a_change_of_revision_stops_no_gang_for_one_that_a_new_controller_has_not_heard_of() -> None:
    world = _ready(_spec(2))
    world.deploy(replace(_spec(2), import_path="app:v2"))
    while not world.ready_paths()["app:v2"]:
        world.step()
    for process in world.processes.values():
        process.silent = True
    world.restart_controller()
    world.reconnect_routers()
    for _ in world.steps():
        assert len([gang for gang in world.gangs() if gang.phase in LIVE]) >= 2
    for process in world.processes.values():
        process.silent = False
    world.run(10.0)
    assert world.ready_paths() == {"app:v2": 2}


def test_several_deployments_of_gangs_share_the_nodes() -> None:
    world = World(nodes=NODES)
    world.add_router()
    world.deploy(_spec(2), replace(_spec(2, 3), name="other"))
    world.settle()
    assert sorted(gang.size for gang in world.records.gangs.values()) == [3, 3, 4, 4]
    assert all(gang.phase is ReplicaPhase.READY for gang in world.records.gangs.values())
    assert len(world.table.replica_ids) == 14
