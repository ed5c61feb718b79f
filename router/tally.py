"""Counts of calls, kept as plain numbers: what a scrape reads of them is made only when it reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serve_core.runtime.metrics import LATENCY_BUCKETS_S

_BOUNDS = (*(str(bound) for bound in LATENCY_BUCKETS_S), "+Inf")


class Durations:
    """How often something took how long."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * len(_BOUNDS)
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Counts one."""
        self._counts[bisect_left(LATENCY_BUCKETS_S, duration_s)] += 1
        self._sum_s += duration_s

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Puts itself among the samples of a family."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip(_BOUNDS, self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, self._sum_s)


class Tally(Collector):
    """How often something came to what.

    Args:
        name: The family's.
        documentation: What is counted.
        label: What it came to.
    """

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._counts: dict[str, int] = {}

    def count(self, value: str) -> None:
        """Counts one."""
        self._counts[value] = self._counts.get(value, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        family = CounterMetricFamily(self._name, self._documentation, labels=(self._label,))
        for value, count in self._counts.items():
            family.add_metric((value,), count)
        yield family


class MethodTally:
    """Calls of one method, and what became of them by status.

    Attributes:
        started: Calls that arrived.
        durations: How long those took that ended, by status.
    """

    __slots__ = ("durations", "started")

    def __init__(self) -> None:
        self.started = 0
        self.durations: dict[str, Durations] = {}

    def ended(self, status: str, duration_s: float) -> None:
        """Counts a call's end."""
        durations = self.durations.get(status)
        if durations is None:
            durations = self.durations[status] = Durations()
        durations.add(duration_s)


class CallTally(Collector):
    """Calls by method, and what became of them by method and status."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodTally] = {}

    def started(self, method: str) -> MethodTally:
        """Counts a call's arrival. Returns where its end is to be counted."""
        tally = self._methods.get(method)
        if tally is None:
            tally = self._methods[method] = MethodTally()
        tally.started += 1
        return tally

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        started = CounterMetricFamily(
            "grpc_server_call_started", "Calls that arrived, over gRPC and HTTP.", labels=("grpc_method",)
        )
        for method, tally in self._methods.items():
            started.add_metric((method,), tally.started)
        yield started
        duration = HistogramMetricFamily(
            "grpc_server_call_duration_seconds",
            "From a call's arrival to its end, queueing included.",
            labels=("grpc_method", "grpc_status"),
        )
        for method, tally in self._methods.items():
            for status, durations in tally.durations.items():
                durations.add_to(duration, (method, status))
        yield duration
