"""What has begun and must be known to have ended, whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Runs ``work`` to its end, which must be near. A caller who is cancelled meanwhile hears of that only then.

    Raises:
        BaseException: What ``work`` raises, unless the caller was cancelled.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and not task.cancelled():
        # Looked at, so that asyncio does not report it as lost.
        raise asyncio.CancelledError from task.exception()
    return task.result()
