from __future__ import annotations

import pytest

from serve_core.errors import ConfigInvalidError, NodeUnknownError
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.plan.deploy import apply_change
from serve_core.plan.events import NodesSeen
from serve_core.plan.nodes import drain_node, on_node, undrain_node
from serve_core.plan.observed import NodeObserved
from serve_core.plan.plan import Settled
from serve_core.plan.records import NodeRecord, Records
from tests.unit.plan.world import KEY, World, a_spec

N0, N1 = NodeId("n0"), NodeId("n1")
KNOWN = (N0, N1)


def _world() -> World:
    nodes = tuple(NodeObserved(node_id=node_id, total=Resources(cpus=8.0)) for node_id in KNOWN)
    world = World(nodes=nodes)
    world.deploy(a_spec(num_replicas=4))
    world.settle()
    return world


def test_a_drained_node_is_on_record_until_it_is_not_drained_any_more() -> None:
    drained = apply_change(Records(), drain_node(Records(), KNOWN, N0, now=5.0, deadline_s=60.0))
    assert drained.nodes == {N0: NodeRecord(node_id=N0, draining_since=5.0, deadline=65.0)}
    used = apply_change(drained, undrain_node(drained, KNOWN, N0, now=9.0))
    assert not used.nodes


def test_asked_again_only_the_deadline_is_another() -> None:
    records = apply_change(Records(), drain_node(Records(), KNOWN, N0, now=5.0))
    assert not drain_node(records, KNOWN, N0, now=7.0).saved_nodes
    (later,) = drain_node(records, KNOWN, N0, now=7.0, deadline_s=10.0).saved_nodes
    assert later == NodeRecord(node_id=N0, draining_since=5.0, deadline=17.0)


def test_nodes_that_are_not_there_are_not_known() -> None:
    with pytest.raises(NodeUnknownError, match="there is: n0, n1"):
        drain_node(Records(), KNOWN, NodeId("n9"), now=5.0)
    with pytest.raises(NodeUnknownError):
        undrain_node(Records(), (), N0, now=5.0)
    assert not undrain_node(Records(), KNOWN, N0, now=5.0).deleted_nodes


def test_one_that_vanished_while_it_was_drained_can_be_forgotten() -> None:
    records = apply_change(Records(), drain_node(Records(), KNOWN, N0, now=5.0))
    assert undrain_node(records, (), N0, now=6.0).deleted_nodes == (N0,)


@pytest.mark.parametrize("deadline_s", [-1.0, float("nan"), float("inf")])
def test_a_deadline_is_a_time(deadline_s: float) -> None:
    with pytest.raises(ConfigInvalidError, match="deadline"):
        drain_node(Records(), KNOWN, N0, now=5.0, deadline_s=deadline_s)


def test_the_deployments_that_are_there_are_told() -> None:
    world = _world()
    assert on_node(world.records, N0) == (KEY,)
    change = drain_node(world.records, KNOWN, N0, now=world.now, deadline_s=30.0)
    (event,) = change.events
    assert (event.key, event.reason, event.subject) == (KEY, "NodeDraining", "n0")
    assert "after 30 s" in event.message
    drained = apply_change(world.records, change)
    (event,) = undrain_node(drained, KNOWN, N0, now=world.now).events
    assert event.reason == "NodeUndrained"


def test_gangs_on_a_node_that_is_drained_or_gone_are_looked_at() -> None:
    world = _world()
    world.advance(1.0)
    world.settle()

    def settled() -> Settled:
        return world.incremental.split(world.records, KEY, world.observed, now=world.now).settled

    assert settled().count == 4
    drained = apply_change(world.records, drain_node(world.records, KNOWN, N0, now=world.now))
    before, world.records = world.records, drained
    assert settled().count == 0, "who goes first is chosen among all"
    world.records = before
    assert settled().count == 4
    world.tell(NodesSeen(nodes=world.nodes[1:], now=world.now))
    assert settled().count == 2
