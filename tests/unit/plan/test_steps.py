"""The steps of a change of revision, as (old, new) gangs that serve or are to serve."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.model.status import ConditionType, RolloutPhase
from serve_core.plan import deploy
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.revision import revision_id
from serve_core.plan.rollout import Bounds
from tests.unit.plan.world import KEY, World, a_spec

V2, V3 = "app:v2", "app:v3"


def _share(text: str) -> Share:
    share = Share.parse(text)
    assert share is not None
    return share


def _policy(surge: str = "25%", unavailable: str = "0", **changes: object) -> RolloutPolicy:
    return RolloutPolicy(max_surge=_share(surge), max_unavailable=_share(unavailable), **changes)  # type: ignore[arg-type]


def _world(count: int, policy: RolloutPolicy, *, cpus: float = 64.0) -> World:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=cpus)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=count, rollout=policy))
    world.settle()
    world.advance(100.0)
    world.settle()
    return world


def _counts(world: World, old: DeploymentSpec, new: DeploymentSpec) -> str:
    live = [gang.revision for gang in world.gangs() if gang.phase in LIVE]
    return f"{live.count(revision_id(old))}+{live.count(revision_id(new))}"


def _steps(world: World, old: DeploymentSpec, new: DeploymentSpec) -> str:
    counts = [_counts(world, old, new)]
    counts += [_counts(world, old, new) for _ in world.steps()]
    return ", ".join(step for step, _ in groupby(counts))


def _phase(world: World) -> RolloutPhase:
    rollout = world.status().rollout
    assert rollout is not None
    return rollout.phase


@pytest.mark.parametrize(
    ("count", "surge", "unavailable", "most", "least"),
    [
        # As Kubernetes resolves them: a surge rounds up, what may be unavailable rounds down, and not both are 0.
        (1, "25%", "25%", 2, 1),
        (2, "25%", "25%", 3, 2),
        (4, "25%", "25%", 5, 3),
        (10, "25%", "25%", 13, 8),
        (10, "50%", "50%", 15, 5),
        (3, "50%", "50%", 5, 2),
        (4, "20%", "20%", 5, 4),
        (5, "100%", "100%", 10, 0),
        (5, "0", "0", 6, 5),
        (5, "0", "2", 5, 3),
        (5, "0", "9", 5, 0),
        (5, "0%", "10%", 6, 5),
        (1, "10%", "0%", 2, 1),
        (0, "25%", "0", 0, 0),
    ],
)
def test_shares_round_as_in_kubernetes(count: int, surge: str, unavailable: str, most: int, least: int) -> None:
    world = _world(count, _policy(surge, unavailable))
    assert Bounds.of(world.record()) == Bounds(most, most, least, kept=least)


@pytest.mark.parametrize(
    ("count", "surge", "unavailable", "cpus", "steps"),
    [
        (1, "25%", "0", 9.0, "1+0, 1+1, 0+1"),
        # Room for three: the next starts once the one that left has ended.
        (2, "1", "0", 3.0, "2+0, 2+1, 1+1, 1+2, 0+2"),
        (2, "1", "0", 9.0, "2+0, 2+1, 1+2, 0+2"),
        (2, "100%", "0", 9.0, "2+0, 2+2, 0+2"),
        # Nothing beyond what is there: one may be missing, so one leaves first.
        (2, "0", "1", 2.0, "2+0, 1+0, 1+1, 0+1, 0+2"),
        (4, "0", "50%", 4.0, "4+0, 2+0, 2+2, 0+2, 0+4"),
        (4, "1", "1", 9.0, "4+0, 3+2, 1+4, 0+4"),
        (3, "0", "0", 9.0, "3+0, 3+1, 2+2, 1+3, 0+3"),
        (4, "50%", "0", 9.0, "4+0, 4+2, 2+4, 0+4"),
        # The surge does not fit, and nothing may be missing.
        (2, "1", "0", 2.0, "2+0"),
        # It does not fit, but one may be missing.
        (2, "1", "1", 2.0, "2+0, 1+0, 1+1, 0+1, 0+2"),
    ],
)
def test_the_steps(count: int, surge: str, unavailable: str, cpus: float, steps: str) -> None:
    policy = _policy(surge, unavailable)
    world = _world(count, policy, cpus=cpus)
    old, new = a_spec(rollout=policy), a_spec(num_replicas=count, rollout=policy, import_path=V2)
    world.deploy(new)
    assert _steps(world, old, new) == steps


def test_what_does_not_fit_is_said_and_goes_on_when_there_is_room() -> None:
    world = _world(2, _policy("1"), cpus=2.0)
    world.deploy(a_spec(import_path=V2, rollout=_policy("1")))
    world.settle()
    status = world.status()
    assert _phase(world) is RolloutPhase.WAITING
    assert status.rollout is not None
    assert status.rollout.waiting_for == "room: n lacks 1 CPUs (0 free)"
    assert world.told().count("WaitingForResources") == 1
    world.nodes = (NodeObserved(node_id=NodeId("n"), total=Resources(cpus=3.0)),)
    world.list_backend()
    world.settle()
    assert world.ready_paths() == {V2: 2}
    assert world.told().count("WaitingForResources") == 1


def test_ready_for_a_while_without_a_break() -> None:
    policy = _policy(min_ready_s=10.0)
    world = _world(1, policy)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy))
    world.settle()
    (new,) = [one for one in world.ready_ids() if world.processes[one].action.spec.import_path == V2]
    assert world.status().rollout is not None
    assert world.status().rollout.waiting_for == f"replica {new} to be ready for min_ready_s = 10 s"  # type: ignore[union-attr]
    world.run(9.0)
    world.processes[new].is_ready = False
    world.report(new)
    world.settle()
    assert new not in world.table.replica_ids
    world.processes[new].is_ready = True
    world.report(new)
    world.run(9.9, step_s=0.9)
    assert world.ready_paths() == {"app:v1": 1, V2: 1}
    world.run(1.0)
    assert world.ready_paths() == {V2: 1}


def test_the_time_that_makes_it_count_wakes_the_planner() -> None:
    policy = _policy(min_ready_s=2.0)
    world = _world(1, policy)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy))
    world.settle()
    assert world.plan().wake_at == world.now + 2.0
    world.advance(2.0)
    world.settle()
    assert world.ready_paths() == {V2: 1}


def test_it_pauses_by_itself_once() -> None:
    policy = _policy("2", pause_at=_share("25%"))
    world = _world(4, policy)
    old, new = a_spec(rollout=policy), a_spec(num_replicas=4, rollout=policy, import_path=V2)
    world.deploy(new)
    assert _steps(world, old, new) == "4+0, 4+1"
    status = world.status()
    assert status.paused
    assert status.rollout is not None
    assert status.rollout.phase is RolloutPhase.PAUSED
    assert status.rollout.updated_available == 1
    assert status.rollout.waiting_for == "an operator to resume it: pause_at = 25% was reached"
    world.run(2000.0, step_s=100.0)
    assert _counts(world, old, new) == "4+1", "held, it has no deadline"
    world.restart_controller()
    world.reconnect_routers()
    world.settle()
    assert _counts(world, old, new) == "4+1"
    world.change(deploy.pause(world.records, KEY, paused=False))
    assert _steps(world, old, new) == "4+1, 3+3, 1+4, 0+4"
    assert not world.status().paused
    assert world.told() == [
        *("RolloutStarted", "RolloutComplete"),
        *("RolloutStarted", "RolloutPaused", "RolloutResumed", "RolloutComplete"),
    ]


def test_another_deploy_ends_a_pause_that_came_by_itself() -> None:
    policy = _policy(pause_at=_share("1"))
    world = _world(2, policy)
    world.deploy(a_spec(import_path=V2, rollout=policy))
    world.settle()
    assert world.status().paused
    world.deploy(a_spec(import_path=V3, rollout=_policy()))
    world.settle()
    assert world.ready_paths() == {V3: 2}
    assert not world.status().paused


def test_but_not_one_of_an_operator() -> None:
    world = _world(2, _policy())
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.deploy(a_spec(import_path=V2))
    world.settle()
    world.deploy(a_spec(import_path=V3))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    assert _phase(world) is RolloutPhase.PAUSED


def test_undo_ends_a_pause_that_came_by_itself() -> None:
    policy = _policy(pause_at=_share("1"))
    world = _world(2, policy)
    world.deploy(a_spec(import_path=V2, rollout=policy))
    world.settle()
    world.change(deploy.roll_back(world.records, KEY))
    world.settle()
    assert world.ready_paths() == {"app:v1": 2}
    assert not world.status().paused
    assert _phase(world) is RolloutPhase.COMPLETE


def test_a_newer_deploy_supersedes_the_one_under_way() -> None:
    world = _world(3, _policy())
    before = set(world.ready_ids())
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(num_replicas=3, import_path=V2))
    world.settle()
    assert len(world.gangs(ReplicaPhase.STARTING)) == 1
    world.deploy(a_spec(num_replicas=3, import_path=V3))
    world.plan()
    assert not [gang for gang in world.gangs(ReplicaPhase.STARTING) if gang.revision != world.record().target]
    assert set(world.ready_ids()) == before
    for _ in world.steps():
        assert sum(world.ready_paths().values()) >= 3
    assert world.ready_paths() == {V3: 3}
    assert world.told().count("Superseded") == 1
    assert "RolloutFailed" not in world.told()


def test_of_what_was_abandoned_all_goes_before_the_good_ones() -> None:
    policy = _policy("1", pause_at=_share("1"))
    world = _world(3, policy)
    world.deploy(a_spec(num_replicas=3, import_path=V2, rollout=policy))
    world.settle()
    assert world.ready_paths() == {"app:v1": 3, V2: 1}
    for process in world.processes.values():
        process.load = Load(1 if process.action.spec.import_path == V2 else 0, 0, 5)
    world.deploy(a_spec(num_replicas=3, import_path=V3, rollout=_policy("2")))
    next(step for step in world.steps() if world.ready_paths()[V3] and not world.ready_paths()[V2])
    assert world.ready_paths()["app:v1"] == 3
    world.settle()
    assert world.ready_paths() == {V3: 3}


def test_what_comes_up_of_an_abandoned_revision_makes_room_at_once() -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=2.0)),))
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec())
    world.settle()
    world.deploy(a_spec(import_path=V2))
    world.settle()
    assert world.ready_paths() == {V2: 2}


def test_also_while_an_operator_holds_the_change() -> None:
    world = _world(2, _policy())
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(import_path=V2))
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.deploy(a_spec(import_path=V3))
    world.settle()
    assert _counts(world, a_spec(), a_spec(import_path=V2)) == "2+0"
    assert len(world.gangs()) == 2


def test_one_that_counts_stays_for_one_that_does_not_count_yet() -> None:
    policy = _policy("1", min_ready_s=10.0)
    world = _world(2, policy)
    counts, wavers = world.ready_ids()
    world.processes[wavers].load = Load(1, 0, 5)
    world.deploy(a_spec(import_path=V2, rollout=policy))
    world.run(2.0)
    world.processes[wavers].is_ready = False
    world.report(wavers)
    world.run(1.0)
    world.processes[wavers].is_ready = True
    world.report(wavers)
    world.run(8.0)
    assert counts in world.ready_ids()
    assert wavers not in world.ready_ids()


def test_held_what_fails_to_come_is_made_up_for_by_the_old_ones() -> None:
    policy = _policy("0", "2")
    world = _world(4, policy)
    old, new = a_spec(rollout=policy), a_spec(num_replicas=4, import_path=V2, rollout=policy, max_start_failures=9)
    world.behaviour[V2] = "hang"
    world.deploy(new)
    world.settle()
    assert _counts(world, old, new) == "2+2"
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.run(30.0)
    assert _counts(world, old, new) == "4+0"
    assert world.ready_paths() == {"app:v1": 4}


def test_a_resumed_change_has_its_whole_time() -> None:
    policy = _policy(progress_deadline_s=60.0)
    world = _world(1, policy)
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy, start_deadline_s=900.0))
    world.run(50.0, step_s=5.0)
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.run(100.0, step_s=5.0)
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.run(55.0, step_s=5.0)
    assert _phase(world) is RolloutPhase.PROGRESSING
    world.run(5.0, step_s=5.0)
    assert _phase(world) is RolloutPhase.ROLLED_BACK


def test_of_nothing_there_is_no_share_to_pause_at() -> None:
    policy = _policy(pause_at=_share("25%"))
    world = _world(1, policy)
    world.deploy(a_spec(num_replicas=0, import_path=V2, rollout=policy))
    world.settle()
    assert not world.status().paused
    assert _phase(world) is RolloutPhase.COMPLETE


def test_the_share_reached_while_an_operator_holds_it_does_not_make_the_pause_its_own() -> None:
    policy = _policy("2", pause_at=_share("2"))
    world = _world(4, policy)
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(num_replicas=4, import_path=V2, rollout=policy))
    world.settle()
    world.change(deploy.pause(world.records, KEY, paused=True))
    world.settle()
    world.behaviour.clear()
    world.settle()
    rollout = world.record().rollout
    assert rollout is not None
    assert (rollout.available, rollout.pause_passed, rollout.paused_by_share) == (2, True, False)
    world.deploy(a_spec(num_replicas=4, import_path=V3, rollout=_policy()))
    world.settle()
    assert world.status().paused


def test_scaled_down_in_the_middle_old_ones_go() -> None:
    policy = _policy("1", pause_at=_share("2"))
    world = _world(4, policy)
    old, new = a_spec(rollout=policy), a_spec(num_replicas=4, rollout=policy, import_path=V2)
    world.deploy(new)
    world.settle()
    assert _counts(world, old, new) == "3+2"
    world.change(deploy.scale(world.records, KEY, num_replicas=2))
    world.settle()
    assert _counts(world, old, new) == "1+2", "held at the surge"
    world.change(deploy.pause(world.records, KEY, paused=False))
    world.settle()
    assert _counts(world, old, new) == "0+2"


def test_scaled_up_in_the_middle_it_serves_with_more_and_ends() -> None:
    world = _world(2, _policy())
    world.deploy(a_spec(import_path=V2))
    world.step()
    world.change(deploy.scale(world.records, KEY, num_replicas=5))
    for _ in world.steps():
        assert sum(world.ready_paths().values()) >= 2
    assert world.ready_paths() == {V2: 5}


def test_update_and_scale_and_deadline_at_once_end_as_they_should() -> None:
    policy = _policy(progress_deadline_s=30.0)
    world = _world(2, policy)
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(import_path=V2, rollout=policy, start_deadline_s=300.0))
    world.settle()
    world.advance(29.9)
    world.change(deploy.scale(world.records, KEY, num_replicas=4))
    world.settle()
    world.advance(0.1)
    for _ in world.steps():
        assert world.ready_paths()["app:v1"] >= 2
    assert world.ready_paths() == {"app:v1": 4}
    assert _phase(world) is RolloutPhase.ROLLED_BACK
    assert world.told()[-3:] == ["ScaledUp", "RolloutFailed", "RolledBack"]


def test_what_is_lost_of_the_old_ones_meanwhile_is_replaced() -> None:
    world = _world(2, _policy())
    world.behaviour[V2] = "hang"
    world.deploy(a_spec(import_path=V2, start_deadline_s=600.0))
    world.settle()
    for replica_id in world.ready_ids():
        world.kill(replica_id)
        world.settle()
    assert world.ready_paths() == {"app:v1": 2}


def test_a_suspect_new_one_keeps_the_old_ones() -> None:
    policy = _policy(min_ready_s=5.0)
    world = _world(1, policy)
    world.deploy(a_spec(num_replicas=1, import_path=V2, rollout=policy))
    world.settle()
    (new,) = [one for one in world.ready_ids() if world.processes[one].action.spec.import_path == V2]
    world.processes[new].silent = True
    world.advance(6.0)
    world.settle()
    assert world.ready_paths() == {"app:v1": 1, V2: 1}
    assert new not in world.table.replica_ids
    rollout = world.status().rollout
    assert rollout is not None
    assert "3 heartbeats of 1 s were missed" in rollout.waiting_for


def test_long_drains_are_progress() -> None:
    policy = _policy("1", progress_deadline_s=100.0, min_ready_s=50.0)
    world = _world(3, policy, cpus=4.0)
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    spec = a_spec(num_replicas=3, rollout=policy, graceful_shutdown_timeout_s=80.0)
    world.deploy(spec)
    world.deploy(replace(spec, import_path=V2))
    world.run(600.0, step_s=4.0)
    assert world.ready_paths() == {V2: 3}
    assert "RolloutFailed" not in world.told()


def test_a_revision_that_never_ran_is_not_good() -> None:
    world = _world(0, _policy())
    assert world.status().last_good_revision == world.record().target
    world.behaviour["app:v1"] = "fail"
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.run(20.0)
    assert _phase(world) is RolloutPhase.FAILED
    (available,) = [one for one in world.status().conditions if one.type is ConditionType.AVAILABLE]
    assert not available.status


def test_one_that_ran_before_it_was_scaled_to_nothing_is_tried_for_ever() -> None:
    world = _world(1, _policy())
    world.change(deploy.scale(world.records, KEY, num_replicas=0))
    world.settle()
    world.behaviour["app:v1"] = "fail"
    world.change(deploy.scale(world.records, KEY, num_replicas=1))
    world.run(100.0, step_s=2.0)
    assert world.record().terminal is None
    world.behaviour["app:v1"] = "ready"
    world.run(40.0)
    assert len(world.ready_ids()) == 1


def test_it_is_complete_when_the_old_ones_are_gone_and_until_then_it_says_what_it_waits_for() -> None:
    world = _world(1, _policy())
    (router,) = world.routers.values()
    (old,) = world.ready_ids()
    world.processes[old].load = Load(1, 0, 5)
    world.deploy(a_spec(num_replicas=1, import_path=V2))
    next(step for step in world.steps() if len(router.replicas) == 2)
    router.stuck = True
    world.settle()
    assert _phase(world) is RolloutPhase.PROGRESSING
    rollout = world.status().rollout
    assert rollout is not None
    assert rollout.waiting_for == f"router r1 to acknowledge table {world.table.version.version}"
    router.stuck = False
    world.settle()
    rollout = world.status().rollout
    assert rollout is not None
    assert rollout.waiting_for == f"replica {old} to finish and end"
    world.processes[old].load = Load(0, 0, 5)
    world.settle()
    rollout = world.status().rollout
    assert rollout is not None
    assert (rollout.phase, rollout.waiting_for, rollout.updated_available) == (RolloutPhase.COMPLETE, "", 1)
