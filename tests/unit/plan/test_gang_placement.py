"""Where the members of gangs go, by strategy, and what is said where they cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from serve_core.model.gang import GangPolicy, Strategy
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.observed import NodeObserved
from serve_core.plan.placement import Capacity, GangRequest, MemberPlacement, Shortage, used
from tests.unit.plan.world import World, a_spec

GPU = Resources(gpus=1.0)


def _nodes(*gpus: int, labels: Mapping[str, str] | None = None) -> tuple[NodeObserved, ...]:
    return tuple(
        NodeObserved(node_id=NodeId(f"n{number}"), total=Resources(cpus=64.0, gpus=float(count)), labels=labels or {})
        for number, count in enumerate(gpus)
    )


def _request(size: int, strategy: Strategy = Strategy.PACK, **asked: Any) -> GangRequest:
    return GangRequest(**{"resources": GPU, "size": size, "strategy": strategy, **asked})


def _counts(placed: tuple[MemberPlacement, ...] | Shortage) -> list[int]:
    """How many members are on each node, in the order of their ranks."""
    assert not isinstance(placed, Shortage), placed.message
    order = list(dict.fromkeys(member.bundle.node_id for member in placed))
    ranks = [order.index(member.bundle.node_id) for member in placed]
    assert ranks == sorted(ranks), "members of one node are next to each other"
    return list(Counter(ranks).values())


def _nodes_of(placed: tuple[MemberPlacement, ...] | Shortage) -> list[str]:
    assert not isinstance(placed, Shortage), placed.message
    return [member.bundle.node_id for member in placed]


@pytest.mark.parametrize(
    ("strategy", "gpus", "size", "counts"),
    [
        (Strategy.PACK, (2, 4, 8), 8, [8]),
        (Strategy.PACK, (2, 4, 3), 6, [4, 2]),
        (Strategy.PACK, (1, 1, 1), 3, [1, 1, 1]),
        (Strategy.STRICT_PACK, (2, 4, 8), 4, [4]),
        (Strategy.SPREAD, (8, 8, 8), 3, [1, 1, 1]),
        (Strategy.SPREAD, (8, 8, 8), 7, [3, 2, 2]),
        (Strategy.SPREAD, (8, 1, 2), 6, [3, 2, 1]),
        (Strategy.STRICT_SPREAD, (8, 8, 1), 3, [1, 1, 1]),
    ],
)
def test_members_are_laid_out_as_asked(strategy: Strategy, gpus: tuple[int, ...], size: int, counts: list[int]) -> None:
    placed = Capacity(_nodes(*gpus), ()).place(_request(size, strategy))
    assert sorted(_counts(placed), reverse=True) == counts


def test_a_gang_leaves_emptier_nodes_to_those_that_need_them_whole() -> None:
    capacity = Capacity(_nodes(8, 4, 8), ())
    assert set(_nodes_of(capacity.place(_request(4, Strategy.STRICT_PACK)))) == {"n1"}
    assert len(_nodes_of(capacity.place(_request(8)))) == 8
    assert len(_nodes_of(capacity.place(_request(8)))) == 8


def test_what_is_left_over_of_a_gang_goes_where_it_fits_most_tightly() -> None:
    assert _nodes_of(Capacity(_nodes(4, 4, 1), ()).place(_request(5))) == ["n1"] * 4 + ["n2"]


@pytest.mark.parametrize(
    ("strategy", "gpus", "message"),
    [
        (Strategy.STRICT_SPREAD, (8, 8, 8), "needs 4 x 1 GPU on distinct nodes, 3 have one"),
        (Strategy.STRICT_PACK, (2, 3), "needs 4 x 1 GPU on one node, the most on one is 3, even if nothing else ran"),
        (Strategy.PACK, (2, 1), "needs 4 x 1 GPU, there is room for 3, even if nothing else ran"),
        (Strategy.SPREAD, (2, 1), "needs 4 x 1 GPU, there is room for 3, even if nothing else ran"),
    ],
)
def test_an_infeasible_gang_says_what_there_is(strategy: Strategy, gpus: tuple[int, ...], message: str) -> None:
    capacity = Capacity(_nodes(*gpus), ())
    assert capacity.place(_request(4, strategy)) == Shortage(message, feasible=False)
    assert _nodes_of(capacity.place(_request(gpus[0])))[0], "it has taken nothing"


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Strategy.STRICT_SPREAD, "needs 3 x 1 GPU on distinct nodes, 2 have one free"),
        (Strategy.STRICT_PACK, "needs 3 x 1 GPU on one node, the most on one is 2 now"),
        (Strategy.PACK, "needs 3 x 1 GPU, there is room for 2 now"),
    ],
)
def test_a_gang_that_waits_for_others_says_how_much_is_free(strategy: Strategy, message: str) -> None:
    capacity = Capacity(_nodes(3, 3, 3), ())
    capacity.place(_request(7, Strategy.PACK))
    if strategy is Strategy.STRICT_SPREAD:
        capacity = Capacity(_nodes(3, 3, 3), ())
        capacity.place(_request(3, Strategy.STRICT_PACK))
    assert capacity.place(_request(3, strategy)) == Shortage(message, feasible=True)


def test_child_bundles_are_on_the_node_of_their_member() -> None:
    request = _request(2, bundles=(Resources(cpus=40.0), GPU))
    capacity = Capacity(_nodes(4, 4), ())
    placed = capacity.place(request)
    assert sorted(_nodes_of(placed)) == ["n0", "n1"], "two do not fit on one node"
    assert not isinstance(placed, Shortage)
    first = placed[0]
    assert first.bundle.gpu_indices == (0,)
    assert [bundle.gpu_indices for bundle in first.child_bundles] == [(), (1,)]
    assert {bundle.node_id for bundle in first.child_bundles} == {first.bundle.node_id}
    shortage = capacity.place(_request(1, bundles=(Resources(cpus=40.0),)))
    assert shortage == Shortage("n0 lacks 40 CPUs (24 free); n1 lacks 40 CPUs (24 free)", feasible=True)


def test_mixed_shares_of_gpus_are_counted_one_by_one() -> None:
    request = _request(2, resources=Resources(gpus=0.5), bundles=(Resources(gpus=1.0), Resources(gpus=0.5)))
    placed = Capacity(_nodes(4), ()).place(request)
    assert not isinstance(placed, Shortage)
    assert [[bundle.gpu_indices for bundle in (one.bundle, *one.child_bundles)] for one in placed] == [
        [(0,), (1,), (0,)],
        [(2,), (3,), (2,)],
    ]
    assert isinstance(Capacity(_nodes(3), ()).place(request), Shortage)


def test_only_nodes_with_the_labels_are_used() -> None:
    nodes = (*_nodes(8), replace(_nodes(2)[0], node_id=NodeId("big"), labels={"gpu": "a100", "disk": "ssd"}))
    capacity = Capacity(nodes, ())
    assert _nodes_of(capacity.place(_request(2, node_labels={"gpu": "a100"}))) == ["big", "big"]
    nowhere = capacity.place(_request(1, node_labels={"gpu": "a100", "disk": "hdd"}))
    assert nowhere == Shortage("no node has the labels disk=hdd, gpu=a100", feasible=False)


def test_nothing_is_placed_on_a_node_that_is_drained() -> None:
    capacity = Capacity(_nodes(2, 2), (), draining={NodeId("n1")})
    assert _nodes_of(capacity.place(_request(2, Strategy.SPREAD))) == ["n0", "n0"]
    everywhere = Capacity(_nodes(2), (), draining={NodeId("n0")})
    assert everywhere.place(_request(1)) == Shortage("every node is being drained: n0", feasible=False)


def test_members_of_a_gang_may_start_together_where_nothing_else_starts() -> None:
    spread = Capacity(_nodes(8, 1), ()).place(_request(2), starts_per_node=1)
    assert sorted(_nodes_of(spread)) == ["n0", "n1"], "it keeps to the limit where it can"
    assert set(_nodes_of(Capacity(_nodes(8), ()).place(_request(4), starts_per_node=1))) == {"n0"}
    busy = Capacity(_nodes(8), ())
    busy.place(_request(1), starts_per_node=1)
    shortage = busy.place(_request(4), starts_per_node=1)
    assert isinstance(shortage, Shortage)
    assert shortage.turn


def test_many_nodes_are_not_all_named() -> None:
    shortage = Capacity(_nodes(*[0] * 50), ()).place(_request(1))
    assert isinstance(shortage, Shortage)
    assert shortage.message.endswith("; n10 lacks 1 GPUs (0 free); and 47 more nodes lack something")


def test_a_member_is_reserved_with_its_child_bundles_and_started_in_its_own() -> None:
    world = World(nodes=_nodes(4))
    world.deploy(a_spec(num_replicas=1, resources=GPU, bundles=(GPU, Resources(cpus=2.0)), gang=GangPolicy()))
    world.settle()
    (gang,) = world.gangs()
    assert [bundle.gpu_indices for bundle in gang.bundles] == [(0,), (1,), ()]
    assert used(NodeId("n0"), [gang]) == Resources(cpus=2.0, gpus=2.0)
    (process,) = world.processes.values()
    assert process.action.bundle_index == 0
    assert process.action.env == {"CUDA_VISIBLE_DEVICES": "0"}
    assert process.action.child_bundles == 2
