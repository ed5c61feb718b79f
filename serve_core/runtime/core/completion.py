"""Handles the events of one completion queue in the event loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from pathlib import Path
from typing import Any

from serve_core.runtime import log
from serve_core.runtime.core.binding import constant
from serve_core.runtime.core.corks import Corks
from serve_core.runtime.core.outbox import Outbox

EVENTS_PER_TURN = 256
"""Events that are handled before the loop does its other work."""

BLOCKED_S = 0.5
"""How long a turn of the loop may take to come, or to end, before the helper stands in; twice that at most, in seconds."""

_TIMEOUT = constant("CompletionType.queue_timeout")
_SHUTDOWN = constant("CompletionType.queue_shutdown")
_log = log.get_logger(__name__)


class CompletionLoop:
    """Calls ``event.tag(event)`` for every event of a completion queue, in the order in which they come.

    The queue is polled by one thread at a time: the loop's while there are events, the helper's while there are none, and
    while something blocks the loop. Where whoever polls reads the sockets of connections, too (see ``polling``), pings are
    answered meanwhile, and connections that close are let go.

    Args:
        queue: The completion queue.
        loop: The running event loop.

    Attributes:
        is_open: Whether the core may be asked for what ends in the queue.
        loop: The event loop.
        outbox: Where the ends of calls wait for the end of a turn.
    """

    def __init__(self, queue: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = True
        self.loop = loop
        self.outbox = Outbox(loop, Corks())
        self._queue = queue
        self._poll = queue.poll
        # What the helper got: no more than what the core was asked for, and a loop that is blocked asks for nothing.
        self._waited: deque[Any] = deque()
        # The loop says that it looks before it asks whether it is stood in for, and the helper the other way round: so they
        # never poll at once, and no event is handled before an earlier one. A lock would cost ten times as much.
        self._looks = False
        self._stood_in_for = False
        self._turns = 0
        self._over = False  # The core must not be asked again once it has said that all is over.
        self._idle = threading.Lock()  # Open once each time that the loop has nothing to do: whoever takes it goes on.
        self._closed = loop.create_future()
        self._thread = threading.Thread(target=self._help, name="grpc-completion", daemon=True)
        _sharpen_timers()
        self._thread.start()

    async def close(self) -> None:
        """Handles what is left, until the queue has said that nothing will come any more. Everything that was asked of
        the core must have ended, or be cancelled. May be called again.
        """
        if self.is_open:
            self.is_open = False
            self._queue.shutdown()
        await asyncio.shield(self._closed)
        self._thread.join()

    def _help(self) -> None:
        turns = 0
        while True:
            if self._idle.acquire(timeout=BLOCKED_S):
                if not self._serve_idle_loop():
                    return
            elif self.loop.is_closed():
                return
            elif self._turns == turns:
                self._stand_in(turns)
            turns = self._turns

    def _serve_idle_loop(self) -> bool:
        """Waits for an event, and tells the loop of it; False at the end."""
        if not self._waited:
            if self._over:
                return False
            self._wait()
        try:
            self.loop.call_soon_threadsafe(self._turn)
        except RuntimeError:
            return False  # The loop was closed without this: the process ends.
        return not self._over

    def _stand_in(self, turns: int) -> None:
        """Polls until the loop comes back. It has a turn before it, and so is told of nothing, or has just opened ``_idle``."""
        self._stood_in_for = True
        if not self._looks:  # Else it has come back already.
            self.outbox.send()
            while self._turns == turns and self._idle.locked() and not self._over:
                self._wait()
        self._stood_in_for = False

    def _wait(self) -> None:
        event = self._poll(None)
        self._over = event.completion_type == _SHUTDOWN
        self._waited.append(event)

    def _turn(self) -> None:
        """Handles what there is, at most so much; then comes back, or lets the helper wait."""
        count = 0
        waited = self._waited
        self._turns += 1
        self.outbox.in_turn = True
        try:
            while count < EVENTS_PER_TURN:
                self._looks = True
                stood_in_for = self._stood_in_for
                if waited:
                    event = waited.popleft()
                elif stood_in_for:
                    break
                else:
                    event = self._poll(0)
                kind = event.completion_type
                if kind == _TIMEOUT:
                    break
                if kind == _SHUTDOWN:
                    self._end()
                    return
                self._looks = False
                count += 1
                try:
                    event.tag(event)
                except Exception:  # noqa: BLE001 - a bug in one call must not end the others
                    _log.exception("an event could not be handled")
                del event
        finally:  # Also when an interrupt of the process ends it early.
            self._looks = False
            self.outbox.in_turn = False
            self.outbox.send()
            if not self._closed.done():
                self._go_on(count)

    def _go_on(self, count: int) -> None:
        # An empty turn costs more than it looks: see _sharpen_timers.
        if count:
            self.loop.call_soon(self._turn)
            return
        self._idle.release()
        # A helper that still stands in may have left something here as it saw that a turn was under way: this one.
        if self._waited and self._idle.acquire(blocking=False):
            self.loop.call_soon(self._turn)

    def _end(self) -> None:
        self._over = True
        if not self._closed.done():
            self._closed.set_result(None)
        self._idle.release()


def _sharpen_timers() -> None:
    """Lets waits of this process's main thread end when they should, and not up to 50 us later, where Linux allows that.

    The core looks for events as a thread that waits for them until a time which has passed. Where another thread waits
    for some too, as that of a ``grpc.aio`` channel does, that is a real wait, and the kernel rounds it up.
    """
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(OSError):
            Path("/proc/self/timerslack_ns").write_text("1", encoding="ascii")
