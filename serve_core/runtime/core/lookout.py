"""Asks for calls that last whether their callers are gone."""

from __future__ import annotations

import asyncio
from typing import Protocol

AFTER_S = 0.01
"""How long a call lasts, at least, before it is asked for; twice that, at most."""


class Lasting(Protocol):
    """A call that may last."""

    def watch_close(self) -> None:
        """Has the core tell whether its caller is gone. Does nothing if it is over."""


class Lookout:
    """Asks once for each call. For most there is nothing to ask: they are over before, and asking costs as much as answering.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._young: list[Lasting] = []
        self._old: list[Lasting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._hurried = False

    def add(self, call: Lasting) -> None:
        """A call has begun to wait."""
        if self._hurried:
            call.watch_close()
            return
        self._young.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(AFTER_S, self._look)

    def hurry(self) -> None:
        """Asks for all at once, and from now on for each."""
        self._hurried = True
        lasting, self._young, self._old = [*self._old, *self._young], [], []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in lasting:
            call.watch_close()

    def _look(self) -> None:
        lasting, self._old, self._young = self._old, self._young, []
        self._timer = self._loop.call_later(AFTER_S, self._look) if self._old else None
        for call in lasting:
            call.watch_close()
