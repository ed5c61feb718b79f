"""The endpoint table."""

from __future__ import annotations

import pytest

from router.core.endpoints import EndpointTable, TableGapError
from serve_core.errors import DeploymentUnavailableError, DeploymentUnknownError, MethodUnknownError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Gang, Replica, UserService
from tests.lines import counting_lines

A = DeploymentKey("shop", "A")
B = DeploymentKey("shop", "B")
OTHER = DeploymentKey("other", "A")


def route(key: DeploymentKey, *services: str, ingress: bool = False, available: bool = True) -> DeploymentRoute:
    return DeploymentRoute(
        key=key,
        ingress=ingress,
        available=available,
        message="" if available else "no GPU",
        services=tuple(UserService(service, ()) for service in services),
    )


def replica(name: str, key: DeploymentKey = A, *, address: str = "h:1") -> Replica:
    return Replica(
        replica_id=ReplicaId(name),
        key=key,
        revision=RevisionId("r"),
        epoch=1,
        address=address,
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId("g")),
    )


def change(
    version: int,
    *routes: DeploymentRoute,
    replicas: tuple[Replica, ...] = (),
    gone: tuple[str, ...] = (),
    gone_keys: tuple[DeploymentKey, ...] = (),
    snapshot: bool = False,
    epoch: str = "e",
) -> TableChange:
    return TableChange(
        version=TableVersion(epoch, version),
        snapshot=snapshot,
        upserted_deployments=routes,
        removed_deployments=gone_keys,
        upserted_replicas=replicas,
        removed_replica_ids=tuple(ReplicaId(name) for name in gone),
    )


@pytest.fixture
def table() -> EndpointTable:
    table = EndpointTable()
    table.apply(
        change(1, route(A, "s.One", ingress=True), route(B), replicas=(replica("a"), replica("b", B)), snapshot=True)
    )
    return table


def test_a_snapshot_replaces_everything(table: EndpointTable) -> None:
    difference = table.apply(change(2, route(B), replicas=(replica("b", B), replica("c", B)), snapshot=True))
    assert set(table.replicas) == {"b", "c"}
    assert [gone.key for gone in difference.removed_routes] == [A]
    assert [gone.replica_id for gone in difference.removed_replicas] == ["a"]
    assert [new.replica_id for new in difference.added_replicas] == ["c"]
    assert difference.changed_routes == ()


def test_a_change_adds_to_what_is_there(table: EndpointTable) -> None:
    difference = table.apply(change(2, replicas=(replica("c"), replica("a", address="h:2")), gone=("b",)))
    assert set(table.replicas) == {"a", "c"}
    assert [new.replica_id for new in difference.updated_replicas] == ["a"]
    assert table.version == TableVersion("e", 2)


def test_a_removed_deployment_takes_its_replicas_along(table: EndpointTable) -> None:
    difference = table.apply(change(2, gone_keys=(B,)))
    assert set(table.replicas) == {"a"}
    assert [gone.replica_id for gone in difference.removed_replicas] == ["b"]


@pytest.mark.parametrize("snapshot", [True, False])
def test_what_is_not_newer_changes_nothing(table: EndpointTable, snapshot: bool) -> None:
    table.apply(change(1, gone=("a",), snapshot=snapshot))
    assert set(table.replicas) == {"a", "b"}


def test_another_life_of_the_store_starts_with_a_whole_table(table: EndpointTable) -> None:
    with pytest.raises(TableGapError):
        table.apply(change(9, gone=("a",), epoch="another"))
    assert set(table.replicas) == {"a", "b"}
    table.apply(change(1, snapshot=True, epoch="another"))
    assert table.replicas == {}


def test_without_a_table_a_change_cannot_be_applied() -> None:
    with pytest.raises(TableGapError):
        EndpointTable().apply(change(1))


def test_resolving(table: EndpointTable) -> None:
    assert table.resolve("shop").key == A
    assert table.resolve("shop", "B").key == B
    with pytest.raises(DeploymentUnknownError, match="there are: shop"):
        table.resolve("none")
    with pytest.raises(DeploymentUnknownError, match="it has: A, B"):
        table.resolve("shop", "C")
    table.apply(change(2, route(B, available=False)))
    with pytest.raises(DeploymentUnavailableError, match="no GPU"):
        table.resolve("shop", "B")


def test_resolving_services(table: EndpointTable) -> None:
    assert table.resolve_service("s.One").key == A
    with pytest.raises(MethodUnknownError, match=r"s\.None is not served by any application"):
        table.resolve_service("s.None")
    with pytest.raises(MethodUnknownError, match="it is served by shop"):
        table.resolve_service("s.One", "other")
    table.apply(change(2, route(B, "s.One", "s.Two", available=False)))
    assert table.resolve_service("s.One").key == A
    with pytest.raises(DeploymentUnavailableError):
        table.resolve_service("s.Two")
    table.apply(change(3, route(OTHER, "s.One")))
    with pytest.raises(MethodUnknownError, match="several applications"):
        table.resolve_service("s.One")
    assert table.resolve_service("s.One", "other").key == OTHER


def _lines_to_apply(replicas: int) -> int:
    table = EndpointTable()
    everyone = tuple(replica(f"r{number}", DeploymentKey("shop", f"D{number % 50}")) for number in range(replicas))
    routes = tuple(route(DeploymentKey("shop", f"D{number}"), f"s.{number}") for number in range(50))
    table.apply(change(1, *routes, replicas=everyone, snapshot=True))
    with counting_lines("/router/core/") as counted:
        table.apply(change(2, route(A), replicas=(replica("new"),), gone=("r1",)))
    assert len(table.replicas) == replicas
    return counted.count


def test_a_change_costs_what_changed_and_not_what_is_there() -> None:
    assert _lines_to_apply(1000) == _lines_to_apply(100)


def test_members_are_those_of_the_deployment(table: EndpointTable) -> None:
    table.apply(change(2, replicas=(replica("c"), replica("d", B)), gone=("a",)))
    assert [one.replica_id for one in table.members(A)] == ["c"]
    assert [one.replica_id for one in table.members(B)] == ["b", "d"]
    assert table.members(OTHER) == ()
    table.apply(change(3, gone_keys=(B,)))
    assert table.members(B) == ()
    assert set(table.replicas) == {"c"}
