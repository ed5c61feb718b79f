"""Placement against a deliberately simple count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_core.model.ids import GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import UNITS, Capacity, GangRequest, is_feasible, units, used
from serve_core.plan.records import GangRecord, MemberRecord
from tests.unit.plan.world import KEY

AMOUNTS = st.integers(0, 4 * UNITS).map(lambda amount: amount / UNITS)
GPUS = st.one_of(st.integers(0, 3).map(float), st.sampled_from((0.1, 0.25, 0.3333, 0.5, 0.9)))
REQUESTS = st.builds(Resources, cpus=AMOUNTS, gpus=GPUS, memory_bytes=st.integers(0, 100))
NODES = st.lists(
    st.builds(Resources, cpus=AMOUNTS, gpus=st.integers(0, 4).map(float), memory_bytes=st.integers(0, 200)),
    min_size=1,
    max_size=3,
).map(lambda totals: [NodeObserved(node_id=NodeId(f"n{number}"), total=total) for number, total in enumerate(totals)])


@given(nodes=NODES, requests=st.lists(st.tuples(REQUESTS, st.integers(1, 4)), max_size=12))
def test_never_more_than_there_is_and_gangs_whole(
    nodes: list[NodeObserved], requests: list[tuple[Resources, int]]
) -> None:
    gangs: list[GangRecord] = []
    running = Capacity(nodes, [])
    for number, (resources, size) in enumerate(requests):
        recounted = Capacity(nodes, gangs).place(GangRequest(resources=resources, size=size))
        placed = running.place(GangRequest(resources=resources, size=size))
        assert placed == recounted, "a working copy and a recount agree"
        if not isinstance(placed, tuple):
            assert placed.message
            assert placed.feasible is is_feasible(nodes, GangRequest(resources=resources, size=size))
            continue
        assert len(placed) == size
        members = tuple(
            MemberRecord(
                replica_id=ReplicaId(f"{number}-{rank}"),
                rank=rank,
                phase=ReplicaPhase.READY,
                phase_since=0.0,
                bundle=place.bundle,
            )
            for rank, place in enumerate(placed)
        )
        gangs.append(
            GangRecord(
                gang_id=GangId(str(number)),
                key=KEY,
                revision=RevisionId("r"),
                phase=ReplicaPhase.READY,
                phase_since=0.0,
                created_at=0.0,
                members=members,
            )
        )
    for node in nodes:
        _check_node(node, gangs)


def _check_node(node: NodeObserved, gangs: list[GangRecord]) -> None:
    held = used(node.node_id, gangs)
    assert units(held.cpus) <= units(node.total.cpus)
    assert held.memory_bytes <= node.total.memory_bytes
    per_gpu: dict[int, int] = {}
    for gang in gangs:
        for member in gang.members:
            if member.node_id != node.node_id:
                continue
            shares = member.bundle.gpus
            assert sum(units(share.amount) for share in shares) == units(member.bundle.resources.gpus)
            assert len({share.index for share in shares}) == len(shares)
            for share in shares:
                per_gpu[share.index] = per_gpu.get(share.index, 0) + units(share.amount)
    assert all(index < node.total.gpus and amount <= UNITS for index, amount in per_gpu.items())


@given(nodes=NODES, resources=REQUESTS, size=st.integers(1, 5))
def test_a_gang_finds_a_place_exactly_if_one_by_one_would(
    nodes: list[NodeObserved], resources: Resources, size: int
) -> None:
    one_by_one = Capacity(nodes, [])
    fits = all(isinstance(one_by_one.place(GangRequest(resources=resources, size=1)), tuple) for _ in range(size))
    assert isinstance(Capacity(nodes, []).place(GangRequest(resources=resources, size=size)), tuple) is fits
