"""Who waits longest is placed first, others use what it does not need, and that never delays it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_core.model.gang import Strategy
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import UNITS, Capacity, GangRequest, MemberPlacement, Shortage, Waiters, units
from serve_core.plan.record_parts import WaitRecord
from serve_core.plan.records import DeploymentRecord, GangRecord, MemberRecord

LIFETIME = 6
"""Steps that a gang runs at the most."""

NEEDS = (
    (Resources(gpus=1.0),),
    (Resources(gpus=2.0, cpus=1.0),),
    (Resources(cpus=1.0),),
    (Resources(cpus=0.5, memory_bytes=30),),
    (Resources(gpus=0.5),),
    (Resources(gpus=1.0), Resources(cpus=1.0, gpus=1.0)),
    (Resources(custom={"licence": 1.0}),),
)
LABELS: tuple[dict[str, str], ...] = ({}, {}, {}, {"kind": "b"})

NODES = st.lists(
    st.builds(
        lambda cpus, gpus, kind: (Resources(cpus=cpus, gpus=gpus, memory_bytes=100, custom={"licence": 2.0}), kind),
        st.integers(0, 4).map(float),
        st.integers(0, 4).map(float),
        st.sampled_from("aab"),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda totals: tuple(
        NodeObserved(node_id=NodeId(f"n{number}"), total=total, labels={"kind": kind})
        for number, (total, kind) in enumerate(totals)
    )
)
REQUESTS = st.builds(
    lambda needs, size, strategy, labels: GangRequest(
        resources=needs[0], bundles=needs[1:], size=size, strategy=strategy, node_labels=labels
    ),
    st.sampled_from(NEEDS),
    st.integers(1, 5),
    st.sampled_from(Strategy),
    st.sampled_from(LABELS),
)


@dataclass
class Cluster:
    """Deployments of one gang each. It is planned for them in any order, as events may come in any."""

    nodes: tuple[NodeObserved, ...]
    random: Random
    now: float = 0.0
    requests: dict[DeploymentKey, GangRequest] = field(default_factory=dict)
    records: dict[DeploymentKey, DeploymentRecord] = field(default_factory=dict)
    gangs: dict[DeploymentKey, GangRecord] = field(default_factory=dict)
    infeasible: set[DeploymentKey] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.capacity = Capacity(self.nodes, ())
        self.waiters = Waiters()

    def arrive(self, request: GangRequest) -> DeploymentKey:
        key = DeploymentKey("app", f"d{len(self.requests)}")
        self.requests[key] = request
        self._save(
            DeploymentRecord(key=key, generation=1, target=RevisionId("r"), num_replicas=request.size, revisions=())
        )
        return key

    def _save(self, record: DeploymentRecord) -> None:
        self.waiters.changed(self.records.get(record.key), record)
        self.records[record.key] = record

    def unplaced(self) -> list[DeploymentKey]:
        return [key for key in self.requests if key not in self.gangs and key not in self.infeasible]

    def ended(self, key: DeploymentKey) -> None:
        self.capacity.change(self.gangs.pop(key), None)
        del self.requests[key]
        self.log.append(f"{key} ends")

    def plan(self, key: DeploymentKey) -> bool:
        """One plan. Nothing of those that wait longer is farther away after it. Returns whether a gang was placed."""
        older = self._older(key)
        before = {one: self._missing(one) for one in older}
        request, record = self.requests[key], self.records[key]
        found = self.waiters.capacity_for(key, self.capacity).place(request)
        if isinstance(found, Shortage):
            if not found.feasible:
                self.infeasible.add(key)
                assert record.waiting is None
            elif record.waiting is None:
                self._save(replace(record, waiting=WaitRecord(since=self.now, request=request)))
            return False
        self.capacity.change(None, self._gang(key, found))
        self._save(replace(record, waiting=None))
        self.log.append(f"{key} is placed on {[one.bundle.node_id for one in found]}")
        for one in older:
            assert self._missing(one) <= before[one], f"{key} delays {one}"
        self.check(key)
        return True

    def plan_all(self) -> bool:
        """Until nobody can be placed any more."""
        placed = False
        while True:
            keys = self.unplaced()
            self.random.shuffle(keys)
            if not [key for key in keys if self.plan(key)]:
                return placed
            placed = True

    def _older(self, key: DeploymentKey) -> list[DeploymentKey]:
        own = self.records[key].waiting
        waiting = [(one.waiting.since, one.key) for one in self.records.values() if one.waiting is not None]
        return [other for since, other in waiting if own is None or (since, other) < (own.since, key)]

    def _missing(self, key: DeploymentKey) -> int:
        return self.waiters.capacity_for(key, self.capacity).missing(self.requests[key])

    def _gang(self, key: DeploymentKey, placed: tuple[MemberPlacement, ...]) -> GangRecord:
        gang = GangRecord(
            gang_id=GangId(key.deployment),
            key=key,
            revision=RevisionId("r"),
            phase=ReplicaPhase.READY,
            phase_since=self.now,
            created_at=self.now,
            members=tuple(
                MemberRecord(
                    replica_id=ReplicaId(f"{key.deployment}-{rank}"),
                    rank=rank,
                    phase=ReplicaPhase.READY,
                    phase_since=self.now,
                    bundle=place.bundle,
                    child_bundles=place.child_bundles,
                )
                for rank, place in enumerate(placed)
            ),
        )
        self.gangs[key] = gang
        return gang

    def check(self, key: DeploymentKey) -> None:
        """The gang of a deployment is whole and as it asked, and nothing is given away twice."""
        gang, request = self.gangs[key], self.requests[key]
        where = [member.node_id for member in gang.members]
        labels = {node.node_id: node.labels for node in self.nodes}
        assert len(where) == request.size
        assert all(labels[node].get(name) == value for node in where for name, value in request.node_labels.items())
        assert request.strategy is not Strategy.STRICT_PACK or len(set(where)) == 1
        assert request.strategy is not Strategy.STRICT_SPREAD or len(set(where)) == request.size
        for member in gang.members:
            assert [bundle.resources for bundle in member.all_bundles] == list(request.parts)
            assert {bundle.node_id for bundle in member.all_bundles} == {member.node_id}
        for node in self.nodes:
            self._check_node(node)

    def _check_node(self, node: NodeObserved) -> None:
        held = [bundle for gang in self.gangs.values() for bundle in gang.bundles if bundle.node_id == node.node_id]
        assert sum(units(bundle.resources.cpus) for bundle in held) <= units(node.total.cpus)
        assert sum(bundle.resources.memory_bytes for bundle in held) <= node.total.memory_bytes
        for name in ("licence",):
            asked = sum(units(bundle.resources.custom.get(name, 0.0)) for bundle in held)
            assert asked <= units(node.total.custom.get(name, 0.0))
        per_gpu: dict[int, int] = {}
        for bundle in held:
            assert sum(units(share.amount) for share in bundle.gpus) == units(bundle.resources.gpus)
            for share in bundle.gpus:
                per_gpu[share.index] = per_gpu.get(share.index, 0) + units(share.amount)
        assert all(index < node.total.gpus and amount <= UNITS for index, amount in per_gpu.items())


def _run(nodes: tuple[NodeObserved, ...], requests: list[GangRequest], seed: int) -> Cluster:
    """They arrive one by one, while those that were placed end at random."""
    cluster = Cluster(nodes, Random(seed))
    for request in requests:
        cluster.now += 1.0
        cluster.arrive(request)
        cluster.plan_all()
        if cluster.gangs and cluster.random.random() < 0.4:
            cluster.ended(cluster.random.choice(sorted(cluster.gangs)))
            cluster.plan_all()
    return cluster


@settings(deadline=None)
@given(NODES, st.lists(REQUESTS, max_size=14), st.integers(0, 1000))
def test_backfill_delays_nobody_and_everybody_is_placed_in_the_end(
    nodes: tuple[NodeObserved, ...], requests: list[GangRequest], seed: int
) -> None:
    cluster = _run(nodes, requests, seed)
    while cluster.unplaced():
        assert cluster.gangs, "nothing runs, and still nobody is placed: a deadlock"
        cluster.ended(cluster.random.choice(sorted(cluster.gangs)))
        cluster.plan_all()


@settings(deadline=None)
@given(NODES, st.lists(REQUESTS, max_size=10), st.integers(0, 1000))
def test_the_same_gives_the_same(nodes: tuple[NodeObserved, ...], requests: list[GangRequest], seed: int) -> None:
    assert _run(nodes, requests, seed).log == _run(nodes, requests, seed).log


@settings(deadline=None, max_examples=60)
@given(NODES, REQUESTS, st.lists(REQUESTS, min_size=1, max_size=4), st.integers(0, 1000))
def test_a_large_gang_does_not_starve_among_small_ones_that_never_cease_to_come(
    nodes: tuple[NodeObserved, ...], large: GangRequest, small: list[GangRequest], seed: int
) -> None:
    cluster = Cluster(nodes, Random(seed))
    ends: dict[DeploymentKey, float] = {}

    def step() -> None:
        cluster.now += 1.0
        for _ in range(3):
            cluster.arrive(cluster.random.choice(small))
        for key in sorted(cluster.gangs):
            if cluster.now >= ends.setdefault(key, cluster.now + cluster.random.randint(1, LIFETIME)):
                cluster.ended(key)
        for key in cluster.unplaced()[:-12]:
            if key != waiting:
                cluster.infeasible.add(key)  # Its operator has lost patience: what cannot be placed does not pile up.
                record = cluster.records[key]
                cluster._save(replace(record, waiting=None))
        cluster.plan_all()

    waiting: DeploymentKey | None = None
    for _ in range(3):
        step()
    waiting = cluster.arrive(large)
    older = sum(record.waiting is not None for record in cluster.records.values())
    for _ in range((older + 10) * LIFETIME * 4):
        step()
        if waiting in cluster.gangs or waiting in cluster.infeasible:
            return
    raise AssertionError("it starves")
