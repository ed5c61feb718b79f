"""Takes a router out of service, as ``router.core.departure`` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from router.core.departure import LOOK_S, Departure, DepartureLimits, Phase, Seen
from router.gate import Gate
from serve_core.runtime.clock import monotonic
from serve_core.runtime.log import get_logger

_log = get_logger(__name__)


async def leave(
    gate: Gate,
    limits: DepartureLimits,
    *,
    look: Callable[[], Seen],
    stop_listening: Callable[[], Awaitable[None]],
) -> None:
    """Returns when nothing runs any more, or the time is over.

    Args:
        gate: Closed once new calls are to be refused.
        limits: How long it may take.
        look: What is inside now.
        stop_listening: Called once, when no new connection is to come.
    """
    departure = Departure(limits, now=monotonic())
    listening = True
    while True:
        seen = look()
        step = departure.look(seen, now=monotonic())
        if listening and not step.listening:
            listening = False
            _log.info("draining: stopped listening", replaced=seen.replaced, connections=seen.connections)
            await stop_listening()
        if step.phase is not Phase.LEAVING and not gate.closed:
            gate.close()
            _log.info("draining: refusing new calls", running=seen.running, connections=seen.connections)
        if step.phase is Phase.GONE:
            break
        if gate.inside:
            await gate.drained(LOOK_S)
        else:
            # No event tells that a connection left.
            await asyncio.sleep(LOOK_S)
    if gate.inside:
        _log.warning("the drain's budget is over: cancelling what still runs", running=gate.inside)
