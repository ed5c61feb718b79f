"""Calls whose time is to be over while something particular holds: with more of it, where a busy machine let it pass before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc.aio

from serve_core.errors import ServeError

TIMES_S = (0.2, 1.0, 5.0, 25.0)


async def error_in_time(call: Callable[[float], Awaitable[object]], shows: Callable[[Exception], object]) -> Exception:
    """How a call failed: in the first of these times in which it failed as it should, or in the last.

    Args:
        call: Calls anew, with so many seconds.
        shows: Whether a failure is one to look at.
    """
    for timeout_s in TIMES_S:
        try:
            await call(timeout_s)
        except (ServeError, grpc.aio.AioRpcError, TimeoutError) as error:
            if shows(error) or timeout_s == TIMES_S[-1]:
                return error
        else:
            raise AssertionError(f"it did not fail in {timeout_s} s")
    raise AssertionError("there is no time")
