"""Metrics of several processes, as those of one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from serve_core.runtime.merging import Family, Sample, Share, carried_on, families_of, merged, registry_of
from serve_core.runtime.metrics import exposition


class Process:
    """One that counts calls."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "C.", ("method",), registry=self.registry)
        self.took = Histogram("took_seconds", "T.", ("method",), buckets=(0.1, 1.0), registry=self.registry)
        self.waiting = Gauge("waiting", "W.", registry=self.registry)
        self.version = Gauge("version", "V.", registry=self.registry)
        Info("build", "B.", registry=self.registry).info({"version": "1"})

    def call(self, method: str, took_s: float) -> None:
        self.calls.labels(method).inc()
        self.took.labels(method).observe(took_s)

    def share(self, worker: str, *, present: bool = True) -> Share:
        return Share(worker, families_of(self.registry), present)


def values(families: list[Family]) -> dict[str, float]:
    """Every figure by its name and labels, as they are written."""
    return {
        sample.name + "".join(f"|{name}={value}" for name, value in sorted(sample.labels)): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_one_alone_is_told_as_it_is() -> None:
    one = Process()
    one.call("a", 0.5)
    assert exposition(registry_of(families_of(one.registry))) == exposition(one.registry)


def test_counts_are_added_up() -> None:
    one, two = Process(), Process()
    for process, method, took_s in ((one, "a", 0.05), (one, "a", 0.5), (two, "a", 0.5), (two, "b", 5.0)):
        process.call(method, took_s)
    told = values(merged((one.share("1"), two.share("2"))))
    assert (told["calls_total|method=a"], told["calls_total|method=b"]) == (3, 1)
    assert [told[f"took_seconds_bucket|le={le}|method=a"] for le in ("0.1", "1.0", "+Inf")] == [1, 3, 3]
    assert [told[f"took_seconds_bucket|le={le}|method=b"] for le in ("0.1", "1.0", "+Inf")] == [0, 0, 1]
    assert told["took_seconds_count|method=a"] == 3
    assert told["took_seconds_sum|method=a"] == 1.05


def test_what_each_is_stays_apart_and_amounts_are_added_up() -> None:
    one, two = Process(), Process()
    for process, figure in ((one, 1), (two, 2)):
        process.waiting.set(figure)
        process.version.set(figure)
    told = values(merged((one.share("1"), two.share("2")), amounts=("waiting",)))
    assert (told["waiting"], told["version|worker=1"], told["version|worker=2"]) == (3, 1, 2)
    assert "version" not in told
    assert told["build_info|version=1"] == 1


def test_of_one_that_is_gone_only_the_counts_are_told() -> None:
    one, two = Process(), Process()
    for process in (one, two):
        process.call("a", 0.5)
        process.waiting.set(1)
    told = values(merged((one.share("1", present=False), two.share("2")), amounts=("waiting",)))
    assert (told["calls_total|method=a"], told["waiting"]) == (2, 1)
    assert "version|worker=1" not in told


def test_a_successor_goes_on_with_the_counts() -> None:
    first, second, third = Process(), Process(), Process()
    for process, method in ((first, "a"), (second, "b"), (third, "a")):
        process.call(method, 0.5)
        process.waiting.set(4)
    lives = carried_on(families_of(first.registry), families_of(second.registry))
    told = values(carried_on(lives, families_of(third.registry)))
    assert (told["calls_total|method=a"], told["calls_total|method=b"]) == (2, 1)
    assert told["took_seconds_count|method=a"] == 2
    assert told["waiting"] == 4


def test_a_count_is_as_old_as_the_oldest_of_them() -> None:
    one, two = (Family("n", "N.", "counter", (Sample("n_total", (), 1), Sample("n_created", (), at))) for at in (9, 5))
    (both,) = merged((Share("1", [one], present=True), Share("2", [two], present=True)))
    assert both.samples == (Sample("n_total", (), 2), Sample("n_created", (), 5))


def test_the_order_of_buckets_is_kept_for_openmetrics() -> None:
    one, two = Process(), Process()
    one.call("a", 0.5)
    two.call("b", 0.5)
    body, _ = exposition(
        registry_of(merged((one.share("1"), two.share("2")))), "application/openmetrics-text; version=1.0.0"
    )
    lines = [line.split(" ")[0] for line in body.decode().splitlines() if line.startswith("took_seconds_bucket")]
    assert lines == [
        f'took_seconds_bucket{{le="{le}",method="{method}"}}' for method in "ab" for le in ("0.1", "1.0", "+Inf")
    ]
