"""Random walks with deployment actors: the gate holds, an actor has one life at a time, only the failed begin anew, nothing leaks.

The world itself checks at every plan that no replica is there before its actors, and that no actor has two lives.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.errors import ActorFencedError
from serve_core.model.actor import ActorKey, ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan import deploy
from serve_core.plan.actor_records import SnapshotRecord
from serve_core.plan.actor_state import Caller, store_state
from serve_core.plan.nodes import drain_node, undrain_node
from serve_core.plan.observed import NodeObserved
from serve_core.plan.plan import Plan
from serve_core.plan.records import Records
from tests.property.test_plan_simulation import NODES, OPERATIONS, REVISIONS, Walk, _assert_converged
from tests.unit.plan.world import KEY, World, an_actor

PATHS = ("app:Cache", "app:Tree")

ACTORS = st.lists(
    st.builds(
        an_actor,
        st.sampled_from(("cache", "tree")),
        import_path=st.sampled_from(PATHS),
        shared=st.sampled_from(ActorSharing),
        on_failure=st.sampled_from(ActorOnFailure),
        max_restarts=st.integers(0, 3),
        resources=st.sampled_from((Resources(), Resources(), Resources(cpus=0.5))),
    ),
    max_size=2,
    unique_by=lambda actor: actor.name,
).map(tuple)

ALL_OPERATIONS = st.one_of(
    OPERATIONS,
    st.tuples(st.just("actors"), ACTORS),
    st.tuples(
        st.just("behave"),
        st.tuples(st.sampled_from((*PATHS, *REVISIONS)), st.sampled_from(("ready", "fail", "exit", "hang"))),
    ),
    st.tuples(st.just("kill_actor"), st.integers(0, 3)),
    st.tuples(st.just("save"), st.integers(0, 9)),
    st.tuples(st.just("save_of_any"), st.integers(0, 9)),
    st.tuples(st.just("drain"), st.tuples(st.sampled_from(NODES), st.sampled_from((None, 5.0)))),
    st.tuples(st.just("step"), st.integers(1, 6)),
)


class _World(World):
    """Also checks what a plan does to the actors that are well, and to the states that were stored.

    ``stored`` is what the last save of each actor was answered for, as long as somebody may want it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stored: dict[ActorKey, SnapshotRecord] = {}
        self.lived: dict[ReplicaId, tuple[ActorKey, Caller]] = {}

    def plan(self, key: DeploymentKey = KEY, *, crash_after: int | None = None) -> Plan:
        before = self.records
        planned = super().plan(key, crash_after=crash_after)
        self._check_who_is_well(before, key)
        self._check_states(key)
        return planned

    def _check_states(self, key: DeploymentKey) -> None:
        """What was stored is there until nobody may want it, and a life that begins from a state begins from that."""
        record = self.records.deployments.get(key)
        kept = {actor.key: actor.snapshot for actor in record.actors} if record is not None else {}
        self.stored = {actor: snapshot for actor, snapshot in self.stored.items() if actor in kept}
        assert self.stored == {actor: snapshot for actor, snapshot in kept.items() if snapshot is not None}
        for gang in self.records.actor_gangs_of(key):
            assert gang.actor is not None
            assert not gang.restore or gang.actor in self.stored or gang.phase > ReplicaPhase.READY
            replica_id = gang.members[0].replica_id
            caller = Caller(replica_id=replica_id, epoch=gang.members[0].epoch, incarnation=gang.incarnation)
            self.lived[replica_id] = (gang.actor, caller)

    def save(self, replica_id: ReplicaId, sequence: int) -> bool:
        """Stores a state of a life that there is or was; whether that was accepted."""
        key, caller = self.lived[replica_id]
        snapshot = SnapshotRecord(
            incarnation=caller.incarnation, sequence=sequence, size_bytes=1, parts=1, time=self.now
        )
        try:
            change = store_state(self.records, caller, snapshot)
        except ActorFencedError:
            return False
        self.change(change)
        if change.saved_deployments:
            self.stored[key] = snapshot
        return True

    def _check_who_is_well(self, before: Records, key: DeploymentKey) -> None:
        """An actor that serves, did not fail, and may stay where it is, goes only when no revision that may run has it."""
        record = self.records.deployments.get(key)
        for old in before.actor_gangs_of(key):
            new = self.records.gangs.get(old.gang_id)
            if old.phase is not ReplicaPhase.READY or (new is not None and new.phase is ReplicaPhase.READY):
                continue
            assert new is not None
            if new.failure is None and old.members[0].node_id not in before.nodes:
                assert record is not None
                runs = [gang.revision for gang in self.records.gangs_of(key)]
                wanted = [] if record.deleting else [record.target, record.last_good]
                assert old.actor not in {one for revision in (*runs, *wanted) for one in record.actor_keys(revision)}


class _ActorWalk(Walk):
    def __init__(self, actors: tuple[ActorSpec, ...]) -> None:
        super().__init__()
        self.world: _World = _World(nodes=self.world.nodes)
        self.saves = 0
        self._change(actors=actors)

    def actors(self, actors: tuple[ActorSpec, ...]) -> None:
        self._change(actors=actors)

    def drain(self, how: tuple[NodeObserved, float | None]) -> None:
        """Drains a node, or uses it again."""
        world, (node, deadline_s) = self.world, how
        known = world.observed.nodes
        if node.node_id in world.records.nodes:
            world.change(undrain_node(world.records, known, node.node_id, now=world.now))
        else:
            world.change(drain_node(world.records, known, node.node_id, now=world.now, deadline_s=deadline_s))

    def heal(self) -> None:
        for node_id in tuple(self.world.records.nodes):
            self.world.change(undrain_node(self.world.records, self.world.observed.nodes, node_id, now=self.world.now))
        super().heal()

    def save(self, number: int) -> None:
        """An actor that lives, and was not given up, stores its state."""
        serving = [gang for gang in self.world.actor_gangs() if gang.phase is ReplicaPhase.READY]
        if serving:
            self.saves += 1
            assert self.world.save(serving[number % len(serving)].members[0].replica_id, self.saves)

    def save_of_any(self, number: int) -> None:
        """Any process that ever ran an actor tries to: only the newest of its actor may."""
        ever = list(self.world.lived)
        if not ever:
            return
        self.saves += 1
        chosen = ever[number % len(ever)]
        key, caller = self.world.lived[chosen]
        newest = [gang.incarnation for gang in self.world.actor_gangs() if gang.actor == key]
        if self.world.save(chosen, self.saves):
            assert newest == [caller.incarnation]

    def kill_actor(self, number: int) -> None:
        running = [
            gang.members[0].replica_id
            for gang in self.world.actor_gangs()
            if gang.members[0].replica_id in self.world.processes
        ]
        if running:
            self.world.kill(running[number % len(running)])


@given(ACTORS, st.lists(ALL_OPERATIONS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_after_the_last_fault_everything_converges(
    actors: tuple[ActorSpec, ...], operations: list[tuple[str, Any]]
) -> None:
    walk = _ActorWalk(actors)
    for operation, argument in operations:
        walk.do(operation, argument)
    walk.heal()
    walk.world.run(60.0, step_s=2.0)
    _assert_converged(walk.world)
    _assert_actors_converged(walk.world)


def _assert_actors_converged(world: World) -> None:
    if KEY not in world.records.deployments:
        return
    record = world.record()
    wanted = {key for revision in (record.target, record.last_good) for key in record.actor_keys(revision)}
    lives = {gang.actor: gang for gang in world.actor_gangs()}
    if record.terminal is None:
        assert set(lives) == {actor.key for actor in record.actors} == wanted
        assert all(gang.phase is ReplicaPhase.READY for gang in lives.values())
    for replica_id in world.ready_ids():
        told = world.directories.get(replica_id, ())
        assert [one.name for one in told] == [key.name for key in record.actor_keys(record.last_good)]
        serving = {gang.actor: gang for gang in lives.values() if gang.phase is ReplicaPhase.READY}
        for key, one in zip(record.actor_keys(record.last_good), told, strict=True):
            if key in serving:
                process = world.processes[serving[key].members[0].replica_id]
                assert (one.address, one.incarnation) == (f"127.0.0.1:{process.pid}", serving[key].incarnation)


@given(ACTORS, st.lists(ALL_OPERATIONS, max_size=25))
@settings(max_examples=100, deadline=None)
def test_removing_everything_ends(actors: tuple[ActorSpec, ...], operations: list[tuple[str, Any]]) -> None:
    walk = _ActorWalk(actors)
    for operation, argument in operations:
        walk.do(operation, argument)
    for change in deploy.delete_all(walk.world.records):
        walk.world.change(change)
    walk.world.run(90.0, step_s=2.0)
    records = walk.world.records
    assert (dict(records.applications), dict(records.deployments), dict(records.gangs)) == ({}, {}, {})
    assert (walk.world.processes, walk.world.placements) == ({}, set())
