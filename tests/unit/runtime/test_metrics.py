"""What a scrape of any process gets."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import Histogram

from serve_core import __version__
from serve_core.runtime import metrics


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


def test_the_version_is_that_of_the_distribution() -> None:
    assert __version__ == version("serve-core")
