"""Metrics in the Prometheus text format, on a registry of our own."""

from __future__ import annotations

import asyncio
import platform

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Info, gc_collector, platform_collector, process_collector
from prometheus_client.exposition import choose_encoder

from serve_core import __version__
from serve_core.runtime import clock

LATENCY_BUCKETS_S: tuple[float, ...] = (
    *(0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008),
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08),
    *(0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)
"""Upper bounds of latency histograms, in seconds: those of gRPC's own metrics (gRFC A66)."""


def new_registry(role: str) -> CollectorRegistry:
    """A registry with what every process reports: its build, its resources and its garbage collection.

    Args:
        role: Which process this is: a label of ``serve_core_build_info``.
    """
    registry = CollectorRegistry(auto_describe=True)
    process_collector.ProcessCollector(registry=registry)
    platform_collector.PlatformCollector(registry=registry)
    gc_collector.GCCollector(registry=registry)
    build = Info("serve_core_build", "Which serve-core this is.", registry=registry)
    build.info({"version": __version__, "role": role, "python": platform.python_version()})
    return registry


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """What a scrape gets.

    Args:
        registry: One of ``new_registry``.
        accept: The scraper's ``Accept`` header; OpenMetrics where it asks for it.

    Returns:
        The body and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class LoopLag:
    """Measures how late the event loop is: what blocks it is what makes every request of the process wait."""

    def __init__(self, registry: CollectorRegistry, *, interval_s: float = 0.5) -> None:
        self._gauge = Gauge(
            "serve_core_event_loop_lag_seconds",
            "How late the event loop ran a timer, last time it was measured.",
            registry=registry,
        )
        self._interval_s = interval_s

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            before = clock.monotonic()
            await asyncio.sleep(self._interval_s)
            self._gauge.set(max(0.0, clock.monotonic() - before - self._interval_s))


__all__ = ["LATENCY_BUCKETS_S", "LoopLag", "exposition", "new_registry", "prometheus_client"]
