"""Routers that take deltas and snapshots at random have the table that a plain copy has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, RouterId
from serve_core.model.replica import Gang, Replica
from serve_core.plan.observed import Observed, RouterObserved
from serve_core.plan.table import EndpointTable

IDS = tuple(ReplicaId(name) for name in "abcd")
KEYS = tuple(DeploymentKey("app", name) for name in "xy")

TABLES = st.tuples(
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(("", "no"))),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from(("h:1", "h:2"))),
)


class Router:
    def __init__(self, number: int) -> None:
        self.router_id = RouterId(f"r{number}")
        self.version: TableVersion | None = None
        self.routes: dict[DeploymentKey, DeploymentRoute] = {}
        self.replicas: dict[ReplicaId, Replica] = {}

    def take(self, change: TableChange) -> None:
        if change.snapshot:
            self.routes, self.replicas = {}, {}
        for key in change.removed_deployments:
            self.routes.pop(key, None)
        for replica_id in change.removed_replica_ids:
            self.replicas.pop(replica_id, None)
        self.routes |= {route.key: route for route in change.upserted_deployments}
        self.replicas |= {replica.replica_id: replica for replica in change.upserted_replicas}
        self.version = change.version

    def observed(self) -> RouterObserved:
        return RouterObserved(router_id=self.router_id, acknowledged=self.version)


def _route(key: DeploymentKey, message: str) -> DeploymentRoute:
    return DeploymentRoute(key=key, ingress=False, available=not message, message=message)


def _replica(replica_id: ReplicaId, address: str) -> Replica:
    return Replica(
        replica_id=replica_id,
        key=KEYS[0],
        revision=RevisionId("r"),
        epoch=1,
        address=address,
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId("g")),
    )


@given(st.lists(st.tuples(TABLES, st.booleans(), st.lists(st.integers(0, 2), max_size=3)), min_size=1, max_size=12))
def test_routers_have_what_there_is_and_facts_are_about_what_they_have(
    steps: list[tuple[tuple[dict[DeploymentKey, str], dict[ReplicaId, str]], bool, list[int]]],
) -> None:
    table = EndpointTable(epoch="e", version=0)
    routers = [Router(number) for number in range(3)]
    for (messages, addresses), new_life, takers in steps:
        if new_life:
            table = EndpointTable(epoch="e", version=table.version.version)
        routes = {key: _route(key, message) for key, message in messages.items()}
        replicas = {replica_id: _replica(replica_id, address) for replica_id, address in addresses.items()}
        table.update(routes.values(), replicas.values())
        for number in takers:
            router = routers[number]
            change = table.change_since(router.version)
            if change is not None:
                router.take(change)
            assert (router.routes, router.replicas) == (routes, replicas)
        seen = {RouterId(str(number)): router.observed() for number, router in enumerate(routers)}
        facts = table.facts(IDS, Observed(listening_since=0.0, routers=seen), now=100.0)
        for replica_id in IDS:
            holders = [replica_id in router.replicas for router in routers]
            if replica_id in facts.acknowledged:
                assert all(holders)
            if replica_id in facts.withdrawn:
                assert not any(holders)
        if {router.version for router in routers} == {table.version}:
            assert facts.acknowledged == set(replicas)
            assert facts.withdrawn == set(IDS) - set(replicas)
