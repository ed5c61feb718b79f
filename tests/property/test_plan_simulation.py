"""Random walks through a small world: whatever happens, the promises hold, and after the last fault all converges.

The world checks at every plan that nothing is placed beyond capacity, that no more is live than the surge allows, that nobody is
told to drain while a router sends to it, and that the plan is the same if what is settled is only counted; and at every table
that it is the same if only what was touched is looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.errors import ServeError
from serve_core.model.ids import NodeId, RouterId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import OnFailure, RolloutPolicy
from serve_core.model.status import DeploymentState, RolloutPhase
from serve_core.plan import deploy, events
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import NodeObserved
from serve_core.plan.rollout import Bounds
from tests.unit.plan.world import KEY, World, a_spec

NODES = (
    NodeObserved(node_id=NodeId("n0"), total=Resources(cpus=5.0)),
    NodeObserved(node_id=NodeId("n1"), total=Resources(cpus=2.5)),
)
REVISIONS = ("app:v1", "app:v2", "app:v3")

SHARES = st.sampled_from((Share(0), Share(1), Share(2), Share(25, percent=True), Share(50, percent=True)))
POLICIES = st.builds(
    RolloutPolicy,
    max_surge=SHARES,
    max_unavailable=SHARES,
    min_ready_s=st.sampled_from((0.0, 0.0, 3.0)),
    progress_deadline_s=st.sampled_from((20.0, 60.0, 600.0)),
    pause_at=st.sampled_from((None, None, Share(1), Share(50, percent=True))),
    on_failure=st.sampled_from(OnFailure),
    max_concurrent_starts=st.sampled_from((0, 0, 1, 2)),
)

OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("advance"), st.floats(0.01, 20.0)),
    st.tuples(st.just("deploy"), st.sampled_from(REVISIONS)),
    st.tuples(st.just("settings"), st.integers(1, 9)),
    st.tuples(st.just("rollout"), POLICIES),
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("roll_back"), st.none()),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(
        st.just("behave"), st.tuples(st.sampled_from(REVISIONS), st.sampled_from(("ready", "fail", "exit", "hang")))
    ),
    st.tuples(st.just("kill"), st.integers(0, 9)),
    st.tuples(st.just("vanish"), st.integers(0, 9)),
    st.tuples(st.just("silence"), st.integers(0, 9)),
    st.tuples(st.just("detach"), st.integers(0, 9)),
    st.tuples(st.just("sicken"), st.integers(0, 9)),
    st.tuples(st.just("unready"), st.integers(0, 9)),
    st.tuples(st.just("busy"), st.integers(0, 9)),
    st.tuples(st.just("restart_controller"), st.none()),
    st.tuples(st.just("crash_while_executing"), st.integers(0, 2)),
    st.tuples(st.just("router"), st.sampled_from(("a", "b"))),
    st.tuples(st.just("stick_router"), st.sampled_from(("a", "b"))),
    st.tuples(st.just("lose_router"), st.sampled_from(("a", "b"))),
    st.tuples(st.just("refuse_placements"), st.booleans()),
    st.tuples(st.just("refuse_starts"), st.booleans()),
)


class Walk:
    """Does one random thing after another to a world."""

    def __init__(self) -> None:
        self.world = World(nodes=NODES)
        self.spec = a_spec(num_replicas=2)
        self.world.deploy(self.spec)

    def do(self, operation: str, argument: Any) -> None:
        getattr(self, operation)(argument)

    def _pick(self, number: int) -> Any:
        ids = sorted(self.world.processes)
        return ids[number % len(ids)] if ids else None

    def _change(self, **changes: Any) -> None:
        self.spec = replace(self.spec, max_ongoing_requests=5)
        self.spec = replace(self.spec, **changes)
        self.world.deploy(self.spec)

    def step(self, times: int) -> None:
        for _ in range(times):
            self.world.step()

    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.world.step()

    def deploy(self, import_path: str) -> None:
        self._change(import_path=import_path)

    def settings(self, slots: int) -> None:
        self._change(max_ongoing_requests=slots)

    def rollout(self, policy: RolloutPolicy) -> None:
        self._change(rollout=policy)

    def scale(self, num_replicas: int) -> None:
        try:
            self.world.change(deploy.scale(self.world.records, KEY, num_replicas=num_replicas))
        except ServeError:
            return
        self.spec = replace(self.spec, num_replicas=num_replicas)

    def pause(self, paused: bool) -> None:
        try:
            self.world.change(deploy.pause(self.world.records, KEY, paused=paused))
        except ServeError:
            return

    def roll_back(self, _: None) -> None:
        try:
            self.world.change(deploy.roll_back(self.world.records, KEY))
        except ServeError:
            return

    def delete(self, _: None) -> None:
        try:
            self.world.change(deploy.delete(self.world.records, "app"))
        except ServeError:
            return

    def behave(self, how: tuple[str, str]) -> None:
        self.world.behaviour[how[0]] = how[1]

    def kill(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.kill(replica_id)

    def vanish(self, number: int) -> None:
        """A process ends while the controller is down."""
        if (replica_id := self._pick(number)) is not None:
            del self.world.processes[replica_id]
        self.restart_controller(None)

    def silence(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.processes[replica_id].silent = True

    def detach(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.lose_attach(replica_id)

    def sicken(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.processes[replica_id].healthy = False
            self.world.report(replica_id)

    def unready(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.processes[replica_id].is_ready = False
            self.world.report(replica_id)

    def busy(self, number: int) -> None:
        if (replica_id := self._pick(number)) is not None:
            self.world.processes[replica_id].load = Load(1, 1, 5)

    def restart_controller(self, _: None) -> None:
        self.world.restart_controller()
        self.world.reconnect_routers()

    def crash_while_executing(self, after: int) -> None:
        if KEY in self.world.records.deployments:
            self.world.plan(crash_after=after)
        self.restart_controller(None)

    def router(self, name: str) -> None:
        if RouterId(name) in self.world.routers:
            self.world.remove_router(name)
        else:
            self.world.add_router(name)

    def stick_router(self, name: str) -> None:
        if (router := self.world.routers.get(RouterId(name))) is not None:
            router.stuck = not router.stuck

    def lose_router(self, name: str) -> None:
        if RouterId(name) in self.world.routers:
            del self.world.routers[RouterId(name)]
            self.world.tell(events.RouterLost(router_id=RouterId(name), now=self.world.now))

    def refuse_placements(self, refuse: bool) -> None:
        self.world.refuse_placements = refuse

    def refuse_starts(self, refuse: bool) -> None:
        self.world.refuse_starts = refuse

    def heal(self) -> None:
        """The last fault is over."""
        self.world.behaviour.clear()
        self.world.refuse_placements = self.world.refuse_starts = False
        for router in self.world.routers.values():
            router.stuck = False
        for process in self.world.processes.values():
            process.silent = False
            process.load = Load(0, 0, 5)
            process.is_ready = True
        for replica_id in self.world.processes:
            self.world.report(replica_id)
        self.resume()

    def resume(self) -> None:
        """Whatever is held goes on, also what holds by itself once more on the way."""
        for _ in range(3):
            self.pause(False)
            self.world.run(60.0, step_s=2.0)


def _assert_converged(world: World) -> None:
    processes, placements = set(world.processes), set(world.placements)
    owned = {member.replica_id for gang in world.records.gangs.values() for member in gang.members}
    assert processes <= owned, "a process that nobody owns"
    assert placements == set(world.records.gangs), "a reservation that nobody owns"
    if KEY not in world.records.deployments:
        assert not owned
        return
    record, status = world.record(), world.status()
    good = record.last_good if record.terminal is not None else record.target
    assert status.rollout is not None
    if record.terminal is not None:
        assert status.state is DeploymentState.DEPLOY_FAILED
    else:
        assert status.state is DeploymentState.HEALTHY, (status.message, world.log[-30:])
        assert status.rollout.phase in (RolloutPhase.COMPLETE, RolloutPhase.ROLLED_BACK)
    if record.terminal is None or good is not None:
        assert len(world.ready_ids()) == record.num_replicas
        assert {gang.revision for gang in world.gangs()} <= {good}
    assert world.table.replica_ids == set(world.ready_ids())
    planned = world.plan()
    assert not planned.changes_records
    assert planned.actions == ()
    if record.terminal is None and not record.unproven:
        counted = world.incremental.split(world.records, KEY, world.observed, now=world.now).settled.count
        assert counted == record.num_replicas, "what serves and is left alone is only counted"


@given(st.lists(OPERATIONS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_after_the_last_fault_everything_converges(operations: list[tuple[str, Any]]) -> None:
    walk = Walk()
    for operation, argument in operations:
        walk.do(operation, argument)
    walk.heal()
    walk.world.run(60.0, step_s=2.0)
    _assert_converged(walk.world)
    told = len(walk.world.events)
    walk.world.run(20.0, step_s=2.0)
    assert len(walk.world.events) == told, "events of nothing new"


@given(st.lists(OPERATIONS, max_size=25))
@settings(max_examples=100, deadline=None)
def test_removing_everything_ends(operations: list[tuple[str, Any]]) -> None:
    walk = Walk()
    for operation, argument in operations:
        walk.do(operation, argument)
    for change in deploy.delete_all(walk.world.records):
        walk.world.change(change)
    walk.world.run(90.0, step_s=2.0)
    assert not walk.world.records.applications
    assert not walk.world.records.deployments
    assert not walk.world.records.gangs
    assert not walk.world.processes
    assert not walk.world.placements


def _available(world: World) -> int:
    """Gangs that every router may send to, and knows of."""
    tables = [router.replicas for router in world.routers.values()]
    return sum(
        all(member.replica_id in table for table in [world.table.replica_ids, *tables] for member in gang.members)
        for gang in world.gangs(ReplicaPhase.READY)
    )


@given(
    count=st.integers(1, 6),
    cpus=st.integers(1, 12),
    routers=st.integers(0, 2),
    policy=POLICIES,
    revisions=st.lists(st.sampled_from(REVISIONS), min_size=1, max_size=3),
    pauses=st.lists(st.booleans(), max_size=4),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_change_without_faults_keeps_to_its_bounds(
    count: int,
    cpus: int,
    routers: int,
    policy: RolloutPolicy,
    revisions: list[str],
    pauses: list[bool],
    data: st.DataObject,
) -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=float(max(cpus, count)))),))
    for number in range(routers):
        world.add_router(f"r{number}")
    world.deploy(a_spec(num_replicas=count, rollout=policy))
    world.run(60.0, step_s=3.0)

    def check() -> None:
        bounds = Bounds.of(world.record())
        assert _available(world) >= min(bounds.least, Bounds.of(first).least)
        assert sum(gang.phase in LIVE for gang in world.gangs()) <= bounds.most

    first = world.record()
    assert _available(world) == count
    for import_path in revisions:
        world.deploy(a_spec(num_replicas=count, import_path=import_path, rollout=policy))
        for _ in range(data.draw(st.integers(0, 12))):
            world.step()
            check()
    for paused in [*pauses, False, False]:
        world.change(deploy.pause(world.records, KEY, paused=paused))
        for _ in world.steps():
            check()
        world.advance(3.0)
        for _ in world.steps():
            check()
    target = world.record().target_spec
    bounds = Bounds.of(world.record())
    if cpus >= bounds.most + count and target.rollout.min_ready_s == 0.0:
        assert world.ready_paths() == {revisions[-1]: count}
        planned = world.plan()
        assert (planned.changes_records, planned.actions, planned.events) == (False, (), ())


def _sicken_all(world: World, import_path: str) -> None:
    for replica_id in world.ready_ids():
        process = world.processes[replica_id]
        if process.action.spec.import_path == import_path:
            process.healthy = False
            world.report(replica_id)


@given(
    count=st.integers(1, 5),
    policy=POLICIES,
    how=st.sampled_from(("fail", "hang", "sicken")),
    steps=st.integers(0, 25),
)
@settings(max_examples=60, deadline=None)
def test_a_roll_back_always_ends_with_the_last_good_revision_whole(
    count: int, policy: RolloutPolicy, how: str, steps: int
) -> None:
    policy = replace(policy, on_failure=OnFailure.ROLLBACK, pause_at=None, min_ready_s=6.0)
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=16.0)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=count, rollout=policy))
    world.run(30.0, step_s=2.0)
    bounds, good = Bounds.of(world.record()), world.record().target
    world.deploy(a_spec(num_replicas=count, rollout=policy, import_path="app:v2"))
    for _ in range(steps):
        if not world.step():
            world.advance(0.5)
    if how != "sicken":
        world.behaviour["app:v2"] = how
    least = count
    while world.now < 2200.0:
        if how == "sicken" and world.record().last_good == good:
            _sicken_all(world, "app:v2")
        while world.step():
            least = min(least, world.ready_paths()["app:v1"] + world.ready_paths()["app:v2"])
        world.advance(2.0)
        rollout = world.record().rollout
        if rollout is not None and rollout.finished_at and not any(gang.phase not in LIVE for gang in world.gangs()):
            break
    (path,) = world.ready_paths() or {""}
    assert world.ready_paths()[path] == count
    assert world.status().state is DeploymentState.HEALTHY
    assert len(world.gangs()) == count
    rollout = world.record().rollout
    assert rollout is not None
    if path == "app:v1":
        assert rollout.failure is not None
    if how != "sicken":
        assert least >= bounds.least, "what is there is not given up for what does not come"


@given(policy=POLICIES, count=st.integers(1, 5), steps=st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_a_pause_holds(policy: RolloutPolicy, count: int, steps: int) -> None:
    world = World(nodes=(NodeObserved(node_id=NodeId("n"), total=Resources(cpus=16.0)),))
    world.add_router()
    world.deploy(a_spec(num_replicas=count, rollout=policy))
    world.run(30.0, step_s=2.0)
    good = world.record().target
    world.deploy(a_spec(num_replicas=count, rollout=policy, import_path="app:v2"))
    for _ in range(steps):
        world.step()
    world.change(deploy.pause(world.records, KEY, paused=True))
    if world.record().last_good != good:
        return  # It was done before.
    before = {gang.gang_id for gang in world.gangs() if gang.phase in LIVE}
    world.run(30.0, step_s=2.0)
    world.run(2000.0, step_s=200.0)
    after = {gang.gang_id for gang in world.gangs() if gang.phase in LIVE}
    assert before <= after
    assert all(gang.revision == good for gang in world.gangs() if gang.gang_id in after - before), "only what serves"
    assert len(world.ready_ids()) >= count
    assert world.record().last_good == good


@given(
    failures=st.integers(1, 6), replicas=st.integers(1, 3), lots=st.floats(0, 1, exclude_max=True), serves=st.booleans()
)
@settings(max_examples=50, deadline=None)
def test_a_deploy_that_keeps_failing_is_given_up_for_good(
    failures: int, replicas: int, lots: float, serves: bool
) -> None:
    world = World()
    world.unit_random = lots
    if serves:
        world.deploy(a_spec(num_replicas=replicas))
        world.settle()
    world.behaviour["app:v2"] = "fail"
    started = len(world.done)
    world.deploy(a_spec(num_replicas=replicas, import_path="app:v2", max_start_failures=failures))
    world.run(60.0)
    starts = sum(type(action).__name__ == "StartProcess" for action in world.done[started:])
    assert failures <= starts < failures + replicas
    assert world.status().state is (DeploymentState.HEALTHY if serves else DeploymentState.DEPLOY_FAILED)
    assert world.told().count("RolloutFailed") == 1
    assert len(world.ready_ids()) == (replicas if serves else 0)
    assert not world.gangs(ReplicaPhase.STARTING)
    done = len(world.done)
    world.run(300.0, step_s=10.0)
    assert len(world.done) == done


@given(st.lists(OPERATIONS, max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_fixed_point_is_reached_in_bounded_steps_while_time_stands_still(
    operations: list[tuple[str, Any]],
) -> None:
    walk = Walk()
    for operation, argument in operations:
        walk.do(operation, argument)
    walk.world.settle(rounds=60)
