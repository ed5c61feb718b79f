from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from serve_core.model.endpoints import DeploymentRoute, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, RouterId
from serve_core.model.replica import Gang, Method, Replica
from serve_core.plan import table as table_module
from serve_core.plan.observed import Observed, RouterObserved
from serve_core.plan.plan import Awaited
from serve_core.plan.table import EndpointTable
from tests.unit.plan.world import KEY

A, B = ReplicaId("a"), ReplicaId("b")


def _route(name: str = "main", *, methods: tuple[Method, ...] = (), message: str = "") -> DeploymentRoute:
    key = DeploymentKey("app", name)
    return DeploymentRoute(key=key, ingress=True, available=not message, message=message, methods=methods)


def _replica(replica_id: ReplicaId, *, address: str = "h:1") -> Replica:
    return Replica(
        replica_id=replica_id,
        key=KEY,
        revision=RevisionId("r"),
        epoch=1,
        address=address,
        node_id=NodeId("n"),
        gang=Gang(gang_id=GangId("g")),
    )


def _table(*, version: int = 10) -> EndpointTable:
    return EndpointTable(epoch="e", version=version)


def _update(table: EndpointTable, *replica_ids: ReplicaId) -> bool:
    return table.update([_route()], [_replica(replica_id) for replica_id in replica_ids])


def _router(version: int | None, *, epoch: str = "e", lost_at: float | None = None) -> RouterObserved:
    return RouterObserved(
        router_id=RouterId("r"),
        acknowledged=None if version is None else TableVersion(epoch, version),
        connected=lost_at is None,
        lost_at=lost_at or 0.0,
    )


def _observed(routers: Iterable[RouterObserved], *, listening_since: float = 0.0) -> Observed:
    seen = {RouterId(str(number)): router for number, router in enumerate(routers)}
    return Observed(listening_since=listening_since, routers=seen)


def _facts(
    table: EndpointTable, routers: Iterable[RouterObserved], *, now: float = 100.0
) -> tuple[list[str], list[str]]:
    facts = table.facts([A, B], _observed(routers), now=now)
    return sorted(facts.acknowledged), sorted(facts.withdrawn)


def test_versions_rise_with_changes_only_and_go_on_from_the_last_life() -> None:
    table = _table()
    published = [table.is_published]
    assert _update(table, A)
    published.append(table.is_published)
    assert published == [False, True]
    assert table.version == TableVersion("e", 11)
    assert not _update(table, A)
    assert _update(table, A, B)
    assert table.version == TableVersion("e", 12)
    assert table.replica_ids == {A, B}


def test_an_empty_first_table_is_a_table() -> None:
    table = _table()
    assert table.update([], [])
    assert table.version.version == 11


def test_a_snapshot_for_strangers_and_nothing_for_those_who_are_there() -> None:
    table = _table()
    _update(table, A)
    for known in (None, TableVersion("other", 11), TableVersion("e", 10), TableVersion("e", 99)):
        change = table.change_since(known)
        assert change is not None
        assert change.snapshot
        assert [replica.replica_id for replica in change.upserted_replicas] == [A]
        assert change.version == table.version
    assert table.change_since(table.version) is None


def test_a_delta_has_what_changed_since() -> None:
    table = _table()
    _update(table, A)
    first = table.version
    table.update([_route(), _route("other")], [_replica(A, address="h:2"), _replica(B)])
    table.update([_route(message="no")], [_replica(B)])
    change = table.change_since(first)
    assert change is not None
    assert not change.snapshot
    assert [replica.replica_id for replica in change.upserted_replicas] == [B]
    assert change.removed_replica_ids == (A,)
    assert change.removed_deployments == (DeploymentKey("app", "other"),)
    assert [route.message for route in change.upserted_deployments] == ["no"]


def test_what_comes_back_is_not_removed() -> None:
    table = _table()
    _update(table, A)
    first = table.version
    table.update([], [])
    _update(table, A)
    change = table.change_since(first)
    assert change is not None
    assert change.removed_replica_ids == ()
    assert change.removed_deployments == ()
    assert [replica.replica_id for replica in change.upserted_replicas] == [A]


def test_a_changed_replica_is_sent_but_needs_no_new_acknowledgement() -> None:
    table = _table()
    _update(table, A)
    first = table.version
    table.update([_route()], [_replica(A, address="h:2")])
    change = table.change_since(first)
    assert change is not None
    assert [replica.address for replica in change.upserted_replicas] == ["h:2"]
    assert _facts(table, [_router(first.version)])[0] == ["a"]


def test_acknowledged_by_every_live_router() -> None:
    table = _table()
    _update(table, A)
    _update(table, A, B)
    assert _facts(table, []) == (["a", "b"], [])
    assert _facts(table, [_router(12)]) == (["a", "b"], [])
    assert _facts(table, [_router(12), _router(11)]) == (["a"], [])
    for behind in (_router(None), _router(10), _router(12, epoch="other")):
        assert _facts(table, [behind]) == ([], [])


def test_withdrawn_when_no_router_holds_it_any_more() -> None:
    table = _table()
    _update(table, A, B)
    _update(table, B)
    assert _facts(table, [_router(11)]) == (["b"], [])
    assert _facts(table, [_router(12)]) == (["b"], ["a"])
    assert _facts(table, [_router(None)]) == ([], ["a"]), "a router without a table routes to nothing"


def test_a_router_whose_stream_broke_counts_during_its_lease() -> None:
    table = _table()
    _update(table, A, B)
    _update(table, B)
    lost = _router(11, lost_at=100.0)
    assert _facts(table, [lost], now=102.9) == (["b"], [])
    assert table.facts([A], _observed([lost]), now=102.9).wake_at == 103.0
    assert _facts(table, [lost], now=103.0) == (["b"], ["a"])
    assert table.facts([A], _observed([lost]), now=103.0).wake_at is None


def test_what_an_earlier_life_published_is_withdrawn_only_when_routers_had_time_to_come_back() -> None:
    table = _table()
    assert _facts(table, []) == ([], [])
    _update(table, B)
    assert _facts(table, [], now=2.9) == (["b"], [])
    assert table.facts([A], _observed([]), now=2.9).wake_at == 3.0
    assert _facts(table, [], now=3.0) == (["b"], ["a"])
    assert _facts(table, [_router(9)], now=3.0) == ([], [])
    assert _facts(table, [_router(11)], now=3.0) == (["b"], ["a"])


def test_while_the_controller_could_not_listen_no_router_could_come_back() -> None:
    table = _table()
    _update(table, B)
    observed = _observed([], listening_since=8.0)
    assert table.facts([A], observed, now=10.9).withdrawn == frozenset()
    assert table.facts([A], observed, now=10.9).wake_at == 11.0
    assert table.facts([A], observed, now=11.0).withdrawn == {A}


def test_old_removals_are_forgotten_and_who_is_behind_them_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "TOMBSTONES_MAX", 1)
    table = _table()
    _update(table, A, B)
    first = table.version
    _update(table, B)
    second = table.version
    _update(table)
    change = table.change_since(first)
    assert change is not None
    assert change.snapshot
    change = table.change_since(second)
    assert change is not None
    assert change.removed_replica_ids == (B,)
    assert _facts(table, [_router(first.version)]) == ([], [])
    assert _facts(table, [_router(second.version)]) == ([], ["a"])


def test_whose_acknowledgement_is_awaited() -> None:
    table = _table()
    _update(table, A)
    _update(table, B)
    behind, ahead = replace(_router(11), router_id=RouterId("r2")), _router(12)
    facts = table.facts([A, B], _observed([behind, ahead]), now=100.0)
    assert facts.awaited == {A: Awaited(12, (RouterId("r2"),)), B: Awaited(12, (RouterId("r2"),))}
    assert table.facts([A, B], _observed([ahead]), now=100.0).awaited == {}
    none = replace(_router(None), router_id=RouterId("r3"))
    assert table.facts([B], _observed([none, ahead]), now=100.0).awaited == {B: Awaited(12, (RouterId("r3"),))}
