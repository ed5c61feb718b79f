"""How long a call is in the process: to its own end, and to that of every thread that still runs for it."""

from __future__ import annotations

import asyncio
from concurrent import futures
from typing import Any


class Stay:
    """One call's stay. It is over once ``finish`` was called and every held thread has really ended."""

    __slots__ = ("_finished", "_held", "_ok", "in_thread")

    def __init__(self) -> None:
        self._held = 0
        self._finished = False
        self._ok = True
        self.in_thread: futures.Future[Any] | None = None
        """The step in a thread that outlived the call's cancellation, if one did."""

    def hold(self, thread: futures.Future[Any]) -> None:
        """Stays until work in a thread has ended, even if the call ends before."""
        self._held += 1
        loop = asyncio.get_running_loop()

        def ended(_: futures.Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._let_go)

        thread.add_done_callback(ended)

    def finish(self, *, ok: bool) -> None:
        """The call has ended. Only the first time counts."""
        if not self._finished:
            self._finished = True
            self._ok = ok
            if self._held == 0:
                self.leave(ok=ok)

    def leave(self, *, ok: bool) -> None:
        """Is called once, when the stay is over."""

    def _let_go(self) -> None:
        self._held -= 1
        if self._finished and self._held == 0:
            self.leave(ok=self._ok)
