"""What a scrape of any process gets."""

from __future__ import annotations

from prometheus_client import Histogram

from serve_core.runtime import metrics
from serve_core.version import UNKNOWN_VERSION, __version__, installed_version


def test_a_registry_says_which_build_it_is() -> None:
    body, content_type = metrics.exposition(metrics.new_registry("router"))

    text = body.decode()
    (build,) = [line for line in text.splitlines() if line.startswith("serve_core_build_info{")]
    assert f'version="{__version__}"' in build
    assert 'role="router"' in build
    assert "process_resident_memory_bytes" in text
    assert content_type.startswith("text/plain")


def test_openmetrics_is_given_to_who_asks() -> None:
    _, content_type = metrics.exposition(metrics.new_registry("router"), "application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")


def test_two_registries_are_independent() -> None:
    for role in ("a", "b"):
        Histogram("h_seconds", "H.", buckets=metrics.LATENCY_BUCKETS_S, registry=metrics.new_registry(role))


def test_the_buckets_grow() -> None:
    assert list(metrics.LATENCY_BUCKETS_S) == sorted(set(metrics.LATENCY_BUCKETS_S))


def test_a_distribution_that_is_not_installed_has_an_unknown_version() -> None:
    assert installed_version("no-such-distribution-of-anyone") == UNKNOWN_VERSION
    assert __version__ != UNKNOWN_VERSION
