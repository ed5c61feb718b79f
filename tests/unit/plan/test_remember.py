"""What the next controller tells routers before anyone has attached to it."""

from __future__ import annotations

from dataclasses import replace

from serve_core.model.load import Load
from serve_core.model.replica import Method, MethodKind, ReplicaPhase
from serve_core.plan import endpoints
from serve_core.plan.records import DeploymentRecord, GangRecord
from serve_core.store.records import decode_record, encode_record
from tests.unit.plan.world import World, a_spec


def _served() -> World:
    world = World()
    world.deploy(a_spec())
    world.settle()
    assert len(world.ready_ids()) == 2
    return world


def _restart(world: World) -> None:
    """The records are what was stored, and nobody has attached yet."""
    world.records = replace(
        world.records,
        deployments={
            key: decode_record("k", encode_record(one), DeploymentRecord)
            for key, one in world.records.deployments.items()
        },
        gangs={name: decode_record("k", encode_record(one), GangRecord) for name, one in world.records.gangs.items()},
    )
    world.advance(5.0)
    world.restart_controller()


def _table(world: World) -> object:
    assert not endpoints.is_recovering(world.records, world.observed, now=world.now, policy=world.policy)
    return endpoints.build(world.records, world.observed, now=world.now, policy=world.policy)


def test_a_ready_member_is_on_record_with_its_address_and_the_deployment_with_its_offer() -> None:
    world = _served()
    endpoint = world.gangs()[0].members[0].endpoint
    assert endpoint is not None
    assert endpoint.address.startswith("127.0.0.1:")
    assert endpoint.metadata == {"own": "x"}
    offer = world.record().offer
    assert offer is not None
    assert offer.methods == (Method("app:v1", MethodKind.UNARY),)


def test_the_table_from_records_is_the_table_from_reports() -> None:
    world = _served()
    before = _table(world)
    _restart(world)
    assert _table(world) == before


def test_planning_meanwhile_leaves_the_records_as_they_are() -> None:
    world = _served()
    _restart(world)
    before = world.records
    planned = world.plan()
    assert not planned.saved_gangs
    assert world.records.gangs == before.gangs


def test_who_died_meanwhile_is_left_out() -> None:
    world = _served()
    dead, living = world.ready_ids()
    del world.processes[dead]
    _restart(world)
    _, replicas = endpoints.build(world.records, world.observed, now=world.now, policy=world.policy)
    assert [replica.replica_id for replica in replicas] == [living]


def test_who_does_not_attach_within_the_grace_is_left_out() -> None:
    world = _served()
    _restart(world)
    routes, replicas = endpoints.build(
        world.records, world.observed, now=world.now + world.policy.reattach_grace_s, policy=world.policy
    )
    assert replicas == ()
    assert routes[0].methods == (Method("app:v1", MethodKind.UNARY),)


def test_what_a_replica_says_to_the_next_controller_counts_for_more() -> None:
    world = _served()
    first, second = world.ready_ids()
    _restart(world)
    world.processes[first].phase = ReplicaPhase.DRAINING
    world.processes[first].load = Load(1, 0, 5)
    world._replica_acts(first, world.processes[first])
    _, replicas = endpoints.build(world.records, world.observed, now=world.now, policy=world.policy)
    assert [replica.replica_id for replica in replicas] == [second]


def test_the_offer_of_the_target_counts_once_a_replica_of_it_tells() -> None:
    world = _served()
    world.deploy(a_spec(import_path="app:v2"))
    seen = []
    for _ in world.steps():
        offer = world.record().offer
        assert offer is not None
        seen.append((offer.methods[0].name, bool(world.ready_paths()["app:v2"])))
    assert set(seen) <= {("app:v1", False), ("app:v2", True)}
    assert seen[-1] == ("app:v2", True)
