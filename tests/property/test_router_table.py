"""The router's table after any changes is what a plain copy is, and says truly what each change did."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.endpoints import EndpointTable
from serve_core.errors import DeploymentUnknownError, MethodUnknownError
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Gang, Replica, UserService

KEYS = [DeploymentKey(application, name) for application in ("a", "b") for name in ("x", "y")]
SERVICES = ("s.One", "s.Two")
IDS = [ReplicaId(name) for name in "abcdef"]

ROUTES = st.builds(
    lambda key, ingress, services: DeploymentRoute(
        key=key,
        ingress=ingress,
        available=True,
        services=tuple(UserService(name, ()) for name in sorted(services)),
    ),
    st.sampled_from(KEYS),
    st.booleans(),
    st.sets(st.sampled_from(SERVICES)),
)
REPLICAS = st.builds(
    # A replica is of one deployment for all its life.
    lambda replica_id, address: Replica(
        replica_id=replica_id,
        key=KEYS[IDS.index(replica_id) % len(KEYS)],
        revision=RevisionId("r"),
        epoch=1,
        address=address,
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId("g")),
    ),
    st.sampled_from(IDS),
    st.sampled_from(("h:1", "h:2")),
)
CHANGES = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(ROUTES, unique_by=lambda route: route.key),
        st.lists(REPLICAS, unique_by=lambda replica: replica.replica_id),
        st.lists(st.sampled_from(KEYS), max_size=2),
        st.lists(st.sampled_from(IDS), max_size=3),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(CHANGES)
def test_a_table_is_what_it_was_told(
    changes: list[tuple[bool, list[DeploymentRoute], list[Replica], list[DeploymentKey], list[ReplicaId]]],
) -> None:
    table = EndpointTable()
    routes: dict[DeploymentKey, DeploymentRoute] = {}
    replicas: dict[ReplicaId, Replica] = {}
    for number, (snapshot, put_routes, put_replicas, gone_keys, gone_ids) in enumerate(changes, 1):
        whole = snapshot or number == 1
        before_routes, before_replicas = dict(routes), dict(replicas)
        if whole:
            routes, replicas = {}, {}
        routes = {key: route for key, route in routes.items() if key not in gone_keys}
        replicas = {name: one for name, one in replicas.items() if name not in gone_ids and one.key not in gone_keys}
        routes |= {route.key: route for route in put_routes}
        replicas |= {one.replica_id: one for one in put_replicas}
        difference = table.apply(
            TableChange(
                version=TableVersion("e", number),
                snapshot=whole,
                upserted_deployments=tuple(put_routes),
                removed_deployments=() if whole else tuple(gone_keys),
                upserted_replicas=tuple(put_replicas),
                removed_replica_ids=() if whole else tuple(gone_ids),
            )
        )
        assert (table.routes, table.replicas) == (routes, replicas)
        assert {route.key for route in difference.removed_routes} == before_routes.keys() - routes.keys()
        assert {one.replica_id for one in difference.removed_replicas} == before_replicas.keys() - replicas.keys()
        assert {one.replica_id for one in difference.added_replicas} == replicas.keys() - before_replicas.keys()
        assert {one.replica_id for one in difference.updated_replicas} == {
            name for name in replicas.keys() & before_replicas.keys() if replicas[name] != before_replicas[name]
        }
        assert {route.key for route in difference.changed_routes} == {
            key for key, route in routes.items() if before_routes.get(key) != route
        }
        _look_up(table, routes, replicas)


def _look_up(
    table: EndpointTable, routes: dict[DeploymentKey, DeploymentRoute], replicas: dict[ReplicaId, Replica]
) -> None:
    for key in KEYS:
        assert {one.replica_id for one in table.members(key)} == {
            name for name, one in replicas.items() if one.key == key
        }
        serving = {route.key for route in routes.values() if route.ingress and route.key.application == key.application}
        try:
            assert table.resolve(key.application).key in serving
        except DeploymentUnknownError:
            assert not serving
        for service in SERVICES:
            offering = [
                route.key
                for route in routes.values()
                if route.key.application == key.application and UserService(service, ()) in route.services
            ]
            try:
                assert table.resolve_service(service, key.application).key in offering
            except MethodUnknownError:
                assert not offering
