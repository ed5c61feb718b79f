"""Deployment actors and the nodes that they run on: room, drains, and nodes that are gone."""

from __future__ import annotations

from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import ConditionType, DeploymentState
from serve_core.plan import events
from serve_core.plan.nodes import drain_node
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.actor_world import life_of, second, serving
from tests.unit.plan.world import World, a_spec, an_actor


def test_what_an_actor_needs_is_counted_and_waited_for() -> None:
    world = World()
    world.add_router()
    world.deploy(a_spec(actors=(an_actor(resources=Resources(gpus=2.0)),)))
    world.settle()
    world.deploy(second(an_actor(resources=Resources(gpus=1.0))))
    world.settle()
    assert "room: actor cache: node-0 lacks 1 GPU" in world.status().message
    assert world.ready_paths() == {"app:v1": 2}


def test_an_actor_leaves_a_node_that_is_drained_and_only_then_begins_elsewhere() -> None:
    nodes = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=2.0)) for name in ("a", "b"))
    world = World(nodes=nodes)
    world.add_router()
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(resources=Resources(cpus=0.5)),)))
    world.settle()
    world.advance(100.0)
    first = life_of(world)
    node = first.members[0].node_id
    world.processes[first.members[0].replica_id].load = Load(1, 0, 5)
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now))
    world.settle()
    assert [life.phase for life in world.lives("cache")] == [ReplicaPhase.DRAINING]
    world.processes[first.members[0].replica_id].load = Load(0, 0, 5)
    world.settle()
    again = life_of(world)
    assert (again.incarnation, again.phase) == (2, ReplicaPhase.READY)
    assert again.members[0].node_id != node
    assert world.record().actors[0].failures == 0


def test_past_the_nodes_deadline_an_actor_goes_and_waits_for_room() -> None:
    world = serving(num_replicas=1)
    node = life_of(world).members[0].node_id
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now, deadline_s=5.0))
    world.run(10.0)
    assert world.lives("cache") == []
    trouble = next(one for one in world.status().conditions if one.type == "Degraded")
    assert (trouble.status, trouble.reason) == (True, "ActorLost")
    assert "is being drained" in trouble.message


def test_the_actor_of_a_node_that_is_gone_begins_elsewhere() -> None:
    nodes = tuple(NodeObserved(node_id=NodeId(name), total=Resources(cpus=2.0)) for name in ("a", "b"))
    world = World(nodes=nodes)
    world.add_router()
    world.deploy(a_spec(num_replicas=1, actors=(an_actor(resources=Resources(cpus=0.5)),)))
    world.settle()
    node = life_of(world).members[0].node_id
    world.nodes = tuple(one for one in nodes if one.node_id != node)
    for replica_id, process in list(world.processes.items()):
        if process.action.bundle.node_id == node:
            del world.processes[replica_id]
    world.tell(events.NodesSeen(nodes=world.nodes, now=world.now))
    world.settle()
    assert (life_of(world).incarnation, life_of(world).members[0].node_id != node) == (2, True)
    assert world.status().state is DeploymentState.HEALTHY


def test_an_actor_that_has_nowhere_to_go_stays_on_its_node() -> None:
    world = serving(num_replicas=1)
    first = life_of(world)
    node = first.members[0].node_id
    world.change(drain_node(world.records, world.observed.nodes, node, now=world.now))
    world.settle()
    assert life_of(world) == first
    waiting = f"actor cache on node {node} waits for room: "
    (progressing,) = [one for one in world.status().conditions if one.type is ConditionType.PROGRESSING]
    assert (progressing.status, progressing.reason) == (True, "WaitingForResources")
    assert waiting in progressing.message
    assert waiting in world.status().message
    assert len(world.ready_ids()) == 1
    world.nodes = (*world.nodes, NodeObserved(node_id=NodeId("spare"), total=Resources(cpus=64.0)))
    world.list_backend()
    world.run(30.0)
    assert life_of(world).members[0].node_id == "spare"
    assert world.status().state is DeploymentState.HEALTHY
    assert "waits for room" not in world.status().message
