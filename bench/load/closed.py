"""Python callers in a closed loop, in the running event loop. Needs nothing but Python: Ray's environment has no more."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from bench.report.statistics import closed_loop_ms


async def in_a_loop(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> dict[str, float]:
    """So many callers at once, each of which calls again when it was answered. Also tells the CPU time of this process."""
    taken: list[float] = []
    before, start = os.times(), time.perf_counter()

    async def caller() -> None:
        while (begun := time.perf_counter()) < start + seconds:
            await call()
            taken.append(time.perf_counter() - begun)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    took_s, after = time.perf_counter() - start, os.times()
    return {
        "requests": len(taken),
        "req_s": len(taken) / took_s,
        "cpu_s": (after.user - before.user) + (after.system - before.system),
        **closed_loop_ms(taken),
    }
