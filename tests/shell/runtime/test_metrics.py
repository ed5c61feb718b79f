"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry

from serve_core.runtime.metrics import LoopLag

NAME = "serve_core_event_loop_lag_seconds"


async def test_a_blocked_loop_is_measured() -> None:
    registry = CollectorRegistry()
    measuring = asyncio.ensure_future(LoopLag(registry, interval_s=0.01).run())
    await asyncio.sleep(0)

    time.sleep(0.1)  # noqa: ASYNC251 - this is what is measured
    while registry.get_sample_value(NAME) == 0:  # noqa: ASYNC110 - a gauge tells nobody of its changes
        await asyncio.sleep(0)

    lag = registry.get_sample_value(NAME)
    measuring.cancel()
    assert lag is not None
    assert lag >= 0.08
