"""Commands that outlive a restart of the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_core.cli.report import say
from serve_core.client import ControllerClient
from serve_core.errors import ControllerUnreachableError
from serve_core.runtime import clock

T = TypeVar("T")

RETRY_S = 0.5
"""Between two tries to connect again."""

GIVE_UP_S = 60.0
"""A controller that is away for longer is not waited for."""


async def through_restarts(controller: str, work: Callable[[ControllerClient], Awaitable[T]]) -> T:
    """Runs ``work`` with a connection, and with a new one each time that the controller goes away meanwhile.

    Args:
        controller: HOST:PORT of the controller.
        work: Must go on where it was.

    Raises:
        ControllerUnreachableError: No controller answers at first, or for ``GIVE_UP_S`` seconds later.
    """
    last_seen: float | None = None
    told = False
    while True:
        try:
            async with ControllerClient(controller) as client:
                try:
                    return await work(client)
                finally:
                    last_seen = clock.monotonic()
                    told = False
        except ControllerUnreachableError as error:
            if last_seen is None or clock.monotonic() > last_seen + GIVE_UP_S:
                raise
            if not told:
                told = True
                say(f"{error.message.partition(':')[0]}; trying again")
        await asyncio.sleep(RETRY_S)
