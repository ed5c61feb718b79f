"""What a router tells of itself: metrics, and a log line for each call when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol

import grpc.aio
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from router.tally import CallTally, MethodTally, Tally
from serve_core.errors import CapacityError, Code, ServeError
from serve_core.model.replica import Replica

OTHER_METHOD = "other"
"""Stands for every method that is not in the table, so that callers cannot make up label values."""

AMOUNTS = frozenset(("serve_core_queue_depth", "serve_core_router_replica_ongoing"))
"""Gauges that are shares of one whole, where several routers are told of as one."""

AccessLog = Callable[[str, str, str, float, str], None]
"""Takes method, code, reason, duration in seconds, and request id."""


class RouterGauges(Protocol):
    """What is read of a router when its metrics are."""

    def queue_depths(self) -> Iterable[tuple[str, str, int]]:
        """Waiting calls, by application and deployment."""

    def gang_counts(self) -> Iterable[tuple[str, str, int, int]]:
        """Gangs that are whole and gangs that are not, by application and deployment."""

    def ongoing(self) -> Iterable[tuple[Replica, int]]:
        """Replicas, and this router's calls that are on their way there."""

    def table_version(self) -> int:
        """The version of the table it routes by; 0 before the first."""


class ObservedCall:
    """One call, from when it is entered to when it is left. An exception that leaves it is its outcome."""

    __slots__ = ("_method", "_observer", "_started_s", "_tally", "code", "reason", "request_id")

    def __init__(self, observer: Observer, method: str, request_id: str) -> None:
        self._observer = observer
        self._method = method
        self._started_s: float | None = None
        self._tally: MethodTally | None = None
        self.request_id = request_id
        self.code = "OK"
        self.reason = ""

    def entered(self, now: float | None = None) -> None:
        """It is entered, unless it was; in this moment, which is ``now`` by the observer's clock."""
        if self._started_s is None:
            observer = self._observer
            self._started_s = observer.monotonic() if now is None else now
            if self._method:
                self._tally = observer.tally.started(self._method)

    def left(self) -> None:
        """It is left."""
        observer = self._observer
        duration_s = observer.monotonic() - (self._started_s or 0.0)
        tally = self._tally or self._named(OTHER_METHOD)
        tally.ended(self.code, duration_s)
        if observer.access_log is not None:
            observer.access_log(self._method, self.code, self.reason, duration_s, self.request_id)

    def __enter__(self) -> ObservedCall:
        self.entered()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        self.left()

    @property
    def outcome(self) -> str:
        """How a reservation ended: ``granted``, or in lower case the reason why not, or else the status."""
        return (self.reason or self.code).lower() if self.code != "OK" else "granted"

    def named(self, method: str) -> None:
        """Says which method it is, if that was not known when the call was entered."""
        self._named(method)

    def failed(self, error: BaseException) -> None:
        """Notes how the call ends."""
        if isinstance(error, ServeError):
            self.code, self.reason = error.code.value, error.reason.value
            if isinstance(error, CapacityError):
                self._observer.rejected(self.reason)
        elif isinstance(error, grpc.aio.AioRpcError):
            self.code = error.code().name
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.code = Code.CANCELLED.value
        elif not isinstance(error, grpc.aio.AbortError):
            self.code = Code.UNKNOWN.value

    def _named(self, method: str) -> MethodTally:
        self._method = method
        tally = self._tally = self._observer.tally.started(method)
        return tally


class Observer:
    """The metrics of one router process.

    Args:
        registry: Where the metrics are registered.
        monotonic: Reads seconds that never go back.
        access_log: Told of each call that ends; None costs nothing.

    Attributes:
        tally: Counts calls.
        monotonic: As given.
        access_log: As given.
    """

    def __init__(
        self, registry: CollectorRegistry, *, monotonic: Callable[[], float], access_log: AccessLog | None = None
    ) -> None:
        self._registry = registry
        self.monotonic = monotonic
        self.access_log = access_log
        self.tally = CallTally()
        registry.register(self.tally)
        self._rejections = Counter(
            "serve_core_rejections", "Calls refused for want of room, by reason.", ("reason",), registry=registry
        )
        self._reservations = Tally("serve_core_slot_reservations", "Reservations asked of the router.", "outcome")
        registry.register(self._reservations)

    def watch(self, router: RouterGauges) -> None:
        """Shows the router's own figures too, read whenever the metrics are."""
        self._registry.register(_RouterCollector(router))

    def call(self, method: str = "", request_id: str = "") -> ObservedCall:
        """A context for one call; ``method`` is a full gRPC method, OTHER_METHOD, or empty when told later."""
        return ObservedCall(self, method, request_id)

    def rejected(self, reason: str) -> None:
        """Counts a call that was refused."""
        self._rejections.labels(reason).inc()

    def reserved(self, outcome: str) -> None:
        """Counts a reservation: ``granted``, or the reason of its refusal in lower case."""
        self._reservations.count(outcome)


class _RouterCollector(Collector):
    def __init__(self, router: RouterGauges) -> None:
        self._router = router

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily(
            "serve_core_queue_depth", "Calls that wait for a slot.", labels=("application", "deployment")
        )
        for application, deployment, waiting in self._router.queue_depths():
            depth.add_metric((application, deployment), waiting)
        yield depth
        gangs = GaugeMetricFamily(
            "serve_core_router_gangs",
            "Gangs with members in the table; a replica that needs no others is a gang of one.",
            labels=("application", "deployment", "state"),
        )
        for application, deployment, whole, partial in self._router.gang_counts():
            gangs.add_metric((application, deployment, "whole"), whole)
            gangs.add_metric((application, deployment, "partial"), partial)
        yield gangs
        ongoing = GaugeMetricFamily(
            "serve_core_router_replica_ongoing",
            "Calls of this router that are at a replica, or on their way there or back.",
            labels=("application", "deployment", "replica", "gang", "rank"),
        )
        for replica, calls in self._router.ongoing():
            key, gang = replica.key, replica.gang
            labels = (key.application, key.deployment, replica.replica_id, gang.gang_id, str(gang.rank))
            ongoing.add_metric(labels, calls)
        yield ongoing
        yield GaugeMetricFamily(
            "serve_core_router_table_version", "Table version that is routed by.", value=self._router.table_version()
        )
