from __future__ import annotations

from dataclasses import replace

from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.plan import deploy, endpoints
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.world import KEY, World, a_spec


def _running(**changes: object) -> World:
    world = World()
    world.deploy(a_spec(**{"num_replicas": 1, "metadata": {"k": "v"}, **changes}))
    world.settle()
    return world


def _build(world: World) -> tuple[list[str], list[str]]:
    routes, replicas = endpoints.build(world.records, world.observed, now=world.now)
    return [route.message for route in routes], [replica.replica_id for replica in replicas]


def test_a_ready_replica_is_routed_to_with_all_that_is_known_of_it() -> None:
    world = _running(max_queued_requests=7)
    (route,), (replica,) = endpoints.build(world.records, world.observed, now=world.now)
    assert (route.ingress, route.available, route.max_queued_requests) == (True, True, 7)
    assert [method.name for method in route.methods] == ["app:v1"]
    assert replica.address.startswith("127.0.0.1:")
    assert (replica.zone, replica.metadata) == ("z", {"k": "v", "own": "x"})
    assert (replica.gang.size, replica.gang.rank, replica.epoch) == (1, 0, 1)


def test_methods_are_those_of_the_target_revision() -> None:
    world = _running()
    world.add_router().stuck = True
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.settle()
    (route,), replicas = endpoints.build(world.records, world.observed, now=world.now)
    assert len(replicas) == 2
    assert [method.name for method in route.methods] == ["app:v2"]


def test_an_ended_or_ill_replica_is_out_before_anything_is_planned() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].healthy = False
    world.report(replica_id)
    assert _build(world) == ([""], [])
    world.kill(replica_id)
    assert _build(world) == ([""], [])


def test_a_replica_without_an_address_is_not_routed_to() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    seen = world.observed.replicas[replica_id]
    assert seen.report is not None
    report = replace(seen.report, address="")
    world.observed = replace(world.observed, replicas={replica_id: replace(seen, report=report)})
    assert _build(world)[1] == []


def test_a_lost_stream_alone_changes_nothing() -> None:
    world = _running()
    before = _build(world)
    world.lose_attach(world.ready_ids()[0])
    assert _build(world) == before


def test_draining_replicas_and_removed_deployments_are_out() -> None:
    world = _running()
    for process in world.processes.values():
        process.load = Load(1, 0, 5)
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.settle()
    assert len(world.gangs(ReplicaPhase.DRAINING)) == 1
    assert _build(world)[1] == world.ready_ids()
    world.change(deploy.delete(world.records, "app"))
    assert _build(world) == ([], [])


def test_nothing_to_hope_for() -> None:
    world = World()
    world.deploy(a_spec(num_replicas=0))
    assert "num_replicas 0" in _build(world)[0][0]
    world.deploy(a_spec(num_replicas=1))
    assert _build(world)[0] == [""]
    world.deploy(a_spec(num_replicas=1, resources=Resources(cpus=64.0)))
    assert "more than any node has" in _build(world)[0][0]
    world.deploy(a_spec(num_replicas=1))
    world.behaviour["app:v1"] = "fail"
    world.run(5)
    assert "could not start: boom" in _build(world)[0][0]


def test_hope_while_an_older_revision_comes_back() -> None:
    world = _running()
    world.behaviour["app:v2"] = "fail"
    world.deploy(a_spec(num_replicas=1, import_path="app:v2"))
    world.run(10)
    world.kill(world.ready_ids()[0])
    assert _build(world) == ([""], [])


def test_hope_while_what_no_node_could_hold_any_more_starts() -> None:
    world = World()
    world.behaviour["app:v1"] = "hang"
    world.deploy(a_spec(num_replicas=1))
    world.settle()
    small = NodeObserved(node_id=NodeId("node-0"), total=Resources(cpus=0.5))
    world.observed = replace(world.observed, nodes={NodeId("node-0"): small})
    assert _build(world)[0] == [""]


def test_a_new_controller_publishes_nothing_emptier_than_what_lives() -> None:
    world = _running()
    world.add_router()
    world.settle()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].silent = True
    world.restart_controller(list_backend=False)
    assert endpoints.is_recovering(world.records, world.observed, now=world.now)
    world.list_backend()
    assert not endpoints.is_recovering(world.records, world.observed, now=world.now)
    world.settle()
    assert world.table.replica_ids == {replica_id}, "where it is was remembered"
    world.processes[replica_id].silent = False
    world.settle()
    assert world.table.replica_ids == {replica_id}


def test_what_was_out_of_rotation_is_so_for_the_next_controller() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].is_ready = False
    world.report(replica_id)
    world.settle()
    world.processes[replica_id].silent = True
    world.restart_controller()
    world.settle()
    assert world.table.replica_ids == set()
    world.processes[replica_id].silent = False
    world.processes[replica_id].is_ready = True
    world.settle()
    assert world.table.replica_ids == {replica_id}


def test_the_grace_period_ends() -> None:
    world = _running()
    (replica_id,) = world.ready_ids()
    world.processes[replica_id].silent = True
    world.restart_controller()
    world.advance(10.0)
    assert not endpoints.is_recovering(world.records, world.observed, now=world.now)


def test_the_dead_are_not_waited_for() -> None:
    world = _running()
    world.processes.clear()
    world.restart_controller()
    assert not endpoints.is_recovering(world.records, world.observed, now=world.now)


def test_a_deployment_without_its_application_is_not_routed_to() -> None:
    world = _running()
    world.records = replace(world.records, applications={})
    assert _build(world) == ([], [])
    assert KEY in world.records.deployments
