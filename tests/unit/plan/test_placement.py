from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_core.model.ids import GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan.amounts import is_countable
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, GangRequest, Shortage, is_feasible, used
from serve_core.plan.records import Bundle, GangRecord, GpuShare, MemberRecord
from tests.unit.plan.world import KEY


def _node(name: str = "n0", **total: float) -> NodeObserved:
    return NodeObserved(node_id=NodeId(name), total=Resources(**total))  # type: ignore[arg-type]


def _gang(name: str, *bundles: Bundle) -> GangRecord:
    return GangRecord(
        gang_id=GangId(name),
        key=KEY,
        revision=RevisionId("r"),
        phase=ReplicaPhase.READY,
        phase_since=0.0,
        created_at=0.0,
        members=tuple(
            MemberRecord(
                replica_id=ReplicaId(f"{name}-{rank}"),
                rank=rank,
                phase=ReplicaPhase.READY,
                phase_since=0.0,
                bundle=bundle,
            )
            for rank, bundle in enumerate(bundles)
        ),
    )


def _place(
    capacity: Capacity, resources: Resources, *, size: int = 1, starts_per_node: int = 0, **asked: Any
) -> tuple[Bundle, ...] | Shortage:
    request = GangRequest(resources=resources, size=size, **asked)
    result = capacity.place(request, starts_per_node=starts_per_node)
    return result if isinstance(result, Shortage) else tuple(member.bundle for member in result)


def _placed(result: tuple[Bundle, ...] | Shortage) -> tuple[Bundle, ...]:
    assert isinstance(result, tuple), result
    return result


def test_tenths_of_a_cpu_add_up_exactly() -> None:
    capacity = Capacity([_node(cpus=1.0)], [])
    for _ in range(10):
        _placed(_place(capacity, Resources(cpus=0.1), size=1))
    assert isinstance(_place(capacity, Resources(cpus=0.0001), size=1), Shortage)


def test_what_gangs_hold_is_not_free() -> None:
    held = _gang("g", Bundle(node_id=NodeId("n0"), resources=Resources(cpus=1.5, memory_bytes=10, custom={"x": 1.0})))
    lost = _gang("h", Bundle(node_id=NodeId("gone"), resources=Resources(cpus=9.0)))
    capacity = Capacity([_node(cpus=2.0, memory_bytes=15)], [held, lost])
    shortage = _place(capacity, Resources(cpus=1.0, memory_bytes=6, custom={"x": 1.0}), size=1)
    assert isinstance(shortage, Shortage)
    assert shortage.message == ("n0 lacks 1 CPUs (0.5 free), 6 bytes of memory (5 free), 1 x (0 free)")
    assert not shortage.feasible
    assert used(NodeId("n0"), [held, lost]) == Resources(cpus=1.5, memory_bytes=10, custom={"x": 1.0})


def test_a_shortage_says_whether_an_empty_cluster_would_do() -> None:
    held = _gang("g", Bundle(node_id=NodeId("n0"), resources=Resources(cpus=2.0)))
    shortage = _place(Capacity([_node(cpus=2.0)], [held]), Resources(cpus=2.0), size=1)
    assert isinstance(shortage, Shortage)
    assert shortage.feasible
    assert is_feasible([_node(cpus=2.0)], GangRequest(resources=Resources(cpus=2.0)))
    assert not is_feasible([_node(cpus=2.0)], GangRequest(resources=Resources(cpus=2.1)))


def test_no_node_at_all() -> None:
    shortage = _place(Capacity([], []), Resources(), size=1)
    assert shortage == Shortage("there is no node", feasible=False)


def test_whole_gpus_get_indices_of_their_own() -> None:
    capacity = Capacity([_node(gpus=3.0)], [])
    assert _placed(_place(capacity, Resources(gpus=2.0), size=1))[0].gpu_indices == (0, 1)
    shortage = _place(capacity, Resources(gpus=2.0), size=1)
    assert isinstance(shortage, Shortage)
    assert shortage.message == "n0 lacks 2 GPUs (1 free)"


def test_fractions_of_gpus_share_one_as_tightly_as_they_fit() -> None:
    held = _gang(
        "g",
        Bundle(node_id=NodeId("n0"), resources=Resources(gpus=0.5), gpus=(GpuShare(0, 0.5),)),
        Bundle(node_id=NodeId("n0"), resources=Resources(gpus=0.7), gpus=(GpuShare(1, 0.7),)),
        Bundle(node_id=NodeId("n0"), resources=Resources(gpus=1.0), gpus=(GpuShare(9, 1.0),)),
    )
    capacity = Capacity([_node(gpus=3.0)], [held])
    assert _placed(_place(capacity, Resources(gpus=0.3), size=1))[0].gpus == (GpuShare(1, 0.3),)
    assert _placed(_place(capacity, Resources(gpus=0.5), size=1))[0].gpus == (GpuShare(0, 0.5),)
    assert _placed(_place(capacity, Resources(gpus=1.0), size=1))[0].gpus == (GpuShare(2, 1.0),)
    assert isinstance(_place(capacity, Resources(gpus=0.1), size=1), Shortage)


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    nodes = [_node("n0", cpus=2.0), _node("n1", cpus=1.0)]
    capacity = Capacity(nodes, [])
    shortage = _place(capacity, Resources(cpus=1.0), size=4)
    assert shortage == Shortage("needs 4 x 1 CPU, there is room for 3, even if nothing else ran", feasible=False)
    bundles = _placed(_place(capacity, Resources(cpus=1.0), size=3))
    assert [bundle.node_id for bundle in bundles] == ["n0", "n0", "n1"]


def test_a_gang_goes_to_one_node_if_one_holds_it_and_single_replicas_to_the_emptiest() -> None:
    nodes = [_node("n0", cpus=2.0), _node("n1", cpus=3.0)]
    assert {bundle.node_id for bundle in _placed(_place(Capacity(nodes, []), Resources(cpus=1.0), size=3))} == {"n1"}
    capacity = Capacity(nodes, [])
    order = [_placed(_place(capacity, Resources(cpus=1.0), size=1))[0].node_id for _ in range(5)]
    assert order == ["n1", "n0", "n1", "n0", "n1"]


def test_no_more_start_on_a_node_at_once_than_may() -> None:
    capacity = Capacity([_node("n0", cpus=8.0), _node("n1", cpus=3.0)], [])
    nodes = [_placed(_place(capacity, Resources(cpus=1.0), size=1, starts_per_node=2))[0].node_id for _ in range(4)]
    assert sorted(nodes) == ["n0", "n0", "n1", "n1"]
    shortage = _place(capacity, Resources(cpus=1.0), size=1, starts_per_node=2)
    assert shortage == Shortage(
        "2 replicas start at once on each node that has room, the most that may", feasible=True, turn=True
    )
    full = _place(capacity, Resources(cpus=9.0), size=1, starts_per_node=2)
    assert isinstance(full, Shortage)
    assert not full.turn


def test_a_start_that_is_over_gives_its_turn_to_another() -> None:
    ready = _gang("g", Bundle(node_id=NodeId("n0"), resources=Resources(cpus=1.0)))
    starting = replace(ready, phase=ReplicaPhase.STARTING)
    capacity = Capacity([_node(cpus=8.0)], [starting])
    assert isinstance(_place(capacity.fork(), Resources(cpus=1.0), size=1, starts_per_node=1), Shortage)
    capacity.change(starting, ready)
    _placed(_place(capacity.fork(), Resources(cpus=1.0), size=1, starts_per_node=1))
    _placed(_place(capacity, Resources(cpus=1.0), size=1, starts_per_node=1))
    assert isinstance(_place(capacity, Resources(cpus=1.0), size=1, starts_per_node=1), Shortage)


def test_a_node_that_shrank_takes_nothing_more() -> None:
    held = _gang("g", Bundle(node_id=NodeId("n0"), resources=Resources(cpus=2.0, custom={"x": 3.0})))
    capacity = Capacity([_node(cpus=1.0)], [held])
    shortage = _place(capacity, Resources(cpus=1.0), size=1)
    assert isinstance(shortage, Shortage)
    assert shortage.message == "n0 lacks 1 CPUs (0 free)"
    _placed(_place(capacity, Resources(memory_bytes=0), size=1))


@pytest.mark.parametrize("amount", [0.0, 1.0, 0.1, 0.3333, 1234.5])
def test_countable(amount: float) -> None:
    assert is_countable(amount)


@pytest.mark.parametrize("amount", [-1.0, 0.00001, 1 / 3, float("inf"), float("nan")])
def test_not_countable(amount: float) -> None:
    assert not is_countable(amount)
