"""Handles the events of one completion queue in the event loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from pathlib import Path
from typing import Any

from serve_core.runtime import log
from serve_core.runtime.core.binding import cygrpc

EVENTS_PER_TURN = 256
"""Events that are handled before the loop does its other work."""

_TIMEOUT = cygrpc.CompletionType.queue_timeout
_SHUTDOWN = cygrpc.CompletionType.queue_shutdown
_log = log.get_logger(__name__)


class CompletionLoop:
    """Calls ``event.tag(event)`` for every event of a completion queue, in the order in which they come.

    The queue is polled by one thread at a time: the loop's while there are events, the helper's while there are none.

    Args:
        queue: The completion queue.
        loop: The running event loop.

    Attributes:
        is_open: Whether the core may be asked for what ends in the queue.
        loop: The event loop.
    """

    def __init__(self, queue: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = True
        self.loop = loop
        self._queue = queue
        self._poll = queue.poll
        self._waited: deque[Any] = deque()
        self._idle = threading.Lock()  # Open for the helper alone, once each time that the loop has nothing to do.
        self._idle.acquire()
        self._closed = loop.create_future()
        self._thread = threading.Thread(target=self._help, name="grpc-completion", daemon=True)
        _sharpen_timers()
        self._thread.start()
        self._idle.release()

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
        while True:
            self._idle.acquire()
            if self._closed.done():
                return  # The core must not be asked again once it has said that all is over.
            event = self._poll(None)
            self._waited.append(event)
            over = event.completion_type == _SHUTDOWN
            del event
            try:
                self.loop.call_soon_threadsafe(self._turn)
            except RuntimeError:
                return  # The loop was closed without this: the process ends.
            if over:
                return

    def _turn(self) -> None:
        """Handles what there is, at most so much; then comes back, or lets the helper wait."""
        count = 0
        try:
            while count < EVENTS_PER_TURN:
                event = self._waited.popleft() if self._waited else self._poll(0)
                kind = event.completion_type
                if kind == _TIMEOUT:
                    break
                if kind == _SHUTDOWN:
                    self._end()
                    return
                count += 1
                try:
                    event.tag(event)
                except Exception:  # noqa: BLE001 - a bug in one call must not end the others
                    _log.exception("an event could not be handled")
                del event
        finally:  # Also when an interrupt of the process ends it early.
            if not self._closed.done():
                self._go_on(count)

    def _go_on(self, count: int) -> None:
        # An empty turn costs more than it looks: see _sharpen_timers.
        if count:
            self.loop.call_soon(self._turn)
        else:
            self._idle.release()

    def _end(self) -> None:
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
