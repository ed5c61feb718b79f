import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router.observe import OTHER_METHOD, Observer
from serve_core.errors import ApplicationError, QueueFullError
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.replica import Gang, Replica


class Gauges:
    def queue_depths(self) -> Iterable[tuple[str, str, int]]:
        return [("shop", "cart", 3)]

    def gang_counts(self) -> Iterable[tuple[str, str, int, int]]:
        return [("shop", "cart", 2, 1)]

    def ongoing(self) -> Iterable[tuple[Replica, int]]:
        leader = Replica(
            replica_id=ReplicaId("shop.cart.g-0"),
            key=DeploymentKey("shop", "cart"),
            revision=RevisionId("r"),
            epoch=1,
            address="h:1",
            node_id=NodeId("n"),
            gang=Gang(gang_id=GangId("shop.cart.g"), size=2),
        )
        rank_1 = replace(leader, replica_id=ReplicaId("shop.cart.g-1"), gang=replace(leader.gang, rank=1))
        return [(leader, 4), (rank_1, 5)]

    def table_version(self) -> int:
        return 7


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_call_is_counted_and_timed(registry: CollectorRegistry) -> None:
    clock = Clock()
    observer = Observer(registry, monotonic=clock)
    with observer.call("/a.B/C"):
        assert sample(registry, "grpc_server_call_started_total", grpc_method="/a.B/C") == 1
        clock.now += 0.25
    labels = {"grpc_method": "/a.B/C", "grpc_status": "OK"}
    assert sample(registry, "grpc_server_call_duration_seconds_sum", **labels) == 0.25
    assert sample(registry, "grpc_server_call_duration_seconds_count", **labels) == 1


def test_a_call_that_never_got_a_name_counts_as_other(registry: CollectorRegistry) -> None:
    observer = Observer(registry, monotonic=Clock())
    with observer.call() as call:
        call.failed(ApplicationError("x"))
    assert sample(registry, "grpc_server_call_started_total", grpc_method=OTHER_METHOD) == 1
    labels = {"grpc_method": OTHER_METHOD, "grpc_status": "UNKNOWN"}
    assert sample(registry, "grpc_server_call_duration_seconds_count", **labels) == 1


def test_a_call_may_be_named_later(registry: CollectorRegistry) -> None:
    observer = Observer(registry, monotonic=Clock())
    with observer.call() as call:
        call.named("/shop.cart/add")
    assert sample(registry, "grpc_server_call_started_total", grpc_method="/shop.cart/add") == 1
    assert sample(registry, "grpc_server_call_started_total", grpc_method=OTHER_METHOD) is None


def test_what_leaves_a_call_is_its_outcome(registry: CollectorRegistry) -> None:
    observer = Observer(registry, monotonic=Clock())
    with pytest.raises(asyncio.CancelledError), observer.call("/m"):
        raise asyncio.CancelledError
    with pytest.raises(QueueFullError), observer.call("/m"):
        raise QueueFullError("full")
    for status in ("CANCELLED", "RESOURCE_EXHAUSTED"):
        assert sample(registry, "grpc_server_call_duration_seconds_count", grpc_method="/m", grpc_status=status) == 1
    assert sample(registry, "serve_core_rejections_total", reason="QUEUE_FULL") == 1


def test_an_error_of_user_code_is_no_rejection(registry: CollectorRegistry) -> None:
    observer = Observer(registry, monotonic=Clock())
    with observer.call("/m") as call:
        call.failed(ApplicationError("x"))
    assert sample(registry, "serve_core_rejections_total", reason="APPLICATION_ERROR") is None


def test_the_routers_own_figures(registry: CollectorRegistry) -> None:
    observer = Observer(registry, monotonic=Clock())
    observer.watch(Gauges())
    observer.reserved("granted")
    assert sample(registry, "serve_core_queue_depth", application="shop", deployment="cart") == 3
    labels = {"application": "shop", "deployment": "cart"}
    assert sample(registry, "serve_core_router_gangs", state="whole", **labels) == 2
    assert sample(registry, "serve_core_router_gangs", state="partial", **labels) == 1
    for rank, calls in (("0", 4), ("1", 5)):
        member = {"replica": f"shop.cart.g-{rank}", "gang": "shop.cart.g", "rank": rank}
        assert sample(registry, "serve_core_router_replica_ongoing", **labels, **member) == calls
    assert sample(registry, "serve_core_router_table_version") == 7
    assert sample(registry, "serve_core_slot_reservations_total", outcome="granted") == 1
    assert b"serve_core_queue_depth" in generate_latest(registry)


def test_the_access_log_is_told_of_every_end(registry: CollectorRegistry) -> None:
    lines: list[tuple[str, str, str, float, str]] = []
    clock = Clock()
    observer = Observer(registry, monotonic=clock, access_log=lambda *line: lines.append(line))
    with observer.call("/m", "id-1") as call:
        clock.now += 1.0
        call.failed(QueueFullError("x"))
    assert lines == [("/m", "RESOURCE_EXHAUSTED", "QUEUE_FULL", 1.0, "id-1")]
