"""Metrics of several processes as those of one: what each has counted is added up, what each of them is stays apart."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

WORKER_LABEL = "worker"
"""Tells whose figure it is, where figures are not added up."""

_COUNTED = frozenset(("counter", "histogram", "summary"))
_CREATED = "_created"


class Sample(NamedTuple):
    """One figure."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its figures.

    Attributes:
        kind: Its type in Prometheus's terms: ``counter``, ``gauge``, ...
    """

    name: str
    documentation: str
    kind: str
    samples: tuple[Sample, ...]

    @property
    def counted(self) -> bool:
        """Whether its figures only grow, so that those of processes that have ended count too."""
        return self.kind in _COUNTED


class Share(NamedTuple):
    """What one of the processes says.

    Attributes:
        worker: Its name among them.
        families: Its metrics.
        present: Whether it is there now. Of one that is not, only what it has counted is told.
    """

    worker: str
    families: Sequence[Family]
    present: bool


def families_of(registry: CollectorRegistry) -> list[Family]:
    """What a registry holds now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            tuple(Sample(one.name, tuple(one.labels.items()), float(one.value)) for one in metric.samples),
        )
        for metric in registry.collect()
    ]


def carried_on(before: Iterable[Family], now: Iterable[Family]) -> list[Family]:
    """A process's metrics, with what its predecessors had counted added to what it has."""
    return merged((Share("", tuple(before), present=False), Share("", tuple(now), present=True)), named=False)


def merged(shares: Iterable[Share], *, amounts: Collection[str] = (), named: bool = True) -> list[Family]:
    """The metrics of all of them as one.

    Counters and histograms are added up, and so are those gauges that are ``amounts``: shares of one whole, such as calls
    that wait. Any other gauge is each process's own, and gets its worker's name as a label. What describes the program is
    the same for all, and told once.

    Args:
        shares: What each says.
        amounts: The names of gauges that are added up.
        named: Whether there are several workers to be told apart.
    """
    sums: dict[str, _Sum] = {}
    for share in shares:
        for family in share.families:
            if share.present or family.counted:
                total = sums.setdefault(family.name, _Sum(family))
                apart = named and not family.counted and family.kind != "info" and family.name not in amounts
                total.add(family, (WORKER_LABEL, share.worker) if apart else None)
    return [total.family() for total in sums.values()]


class _Sum:
    def __init__(self, like: Family) -> None:
        self._like = like
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}

    def add(self, family: Family, label: tuple[str, str] | None) -> None:
        for sample in family.samples:
            labels = sample.labels if label is None else (*sample.labels, label)
            key = (sample.name, frozenset(labels))
            before = self._values.get(key)
            value = sample.value if before is None else self._both(sample.name, before.value, sample.value)
            self._values[key] = Sample(sample.name, labels, value)

    def family(self) -> Family:
        like = self._like
        return Family(like.name, like.documentation, like.kind, tuple(self._values.values()))

    def _both(self, name: str, one: float, other: float) -> float:
        if self._like.kind == "info":
            return other
        return min(one, other) if name.endswith(_CREATED) and self._like.counted else one + other


class Families(Collector):
    """Metrics as they are, for a registry to encode."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = tuple(families)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Called for each scrape."""
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def registry_of(families: Iterable[Family]) -> CollectorRegistry:
    """A registry that holds just these."""
    registry = CollectorRegistry()
    registry.register(Families(families))
    return registry
