"""The way from user code, which may run in any thread, to the event loop of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from serve_core.context import misplaced

T = TypeVar("T")


class LoopBridge:
    """Runs coroutines on the event loop of the process, wherever they are asked for.

    Args:
        loop: That event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def is_here(self) -> bool:
        """Whether this code runs on that event loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Awaits a coroutine from any event loop."""
        if self.is_here:
            return await make()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._loop))

    def block(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Waits for a coroutine in a thread.

        Raises:
            ConfigInvalidError: This thread runs an event loop, which would stand still.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        raise misplaced(f"{name}_sync()", f"would block an event loop: await {name}() there")
