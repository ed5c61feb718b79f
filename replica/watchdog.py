"""A thread that watches the event loop: how late it is, and where it hangs when it is stuck."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import Callable

from replica.core.watchdog import Finding, Look, Watchdog, interval_s
from serve_core.model.health import HealthPolicy
from serve_core.runtime import clock, log

STACK_DEPTH = 40
"""Frames of the stuck thread that are logged, the innermost."""

_log = log.get_logger(__name__)


class LoopWatchdog:
    """Asks the loop several times before it counts as stuck, and tells in the log what keeps it from answering.

    Args:
        policy: Heartbeats, and how many missed ones make a replica suspect: then the loop is stuck.
        on_alive: Is called on the loop at each of its answers.
    """

    def __init__(self, policy: HealthPolicy, *, on_alive: Callable[[], None]) -> None:
        self._on_alive = on_alive
        self._lock = threading.Lock()
        self._core = Watchdog(late_after_s=_late_after_s(policy))
        self._interval_s = interval_s(_late_after_s(policy))
        self._closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched = 0

    def configure(self, policy: HealthPolicy) -> None:
        """Takes a deployment's settings, live."""
        self._interval_s = interval_s(_late_after_s(policy))
        with self._lock:
            self._core.limit(_late_after_s(policy))

    def start(self) -> None:
        """Starts to watch the loop that this is called on."""
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def take_lag_s(self) -> float:
        """The longest that the loop was late since this was called last, in seconds."""
        with self._lock:
            return self._core.take_lag_s(clock.monotonic())

    def _watch(self) -> None:
        while not self._closed.wait(self._interval_s):
            now = clock.monotonic()
            with self._lock:
                look = self._core.look(now)
                ask = self._core.ask(now)
            self._tell(look)
            if ask:
                assert self._loop is not None
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        with self._lock:
            self._core.answer(clock.monotonic())
        self._on_alive()

    def _tell(self, look: Look) -> None:
        if look.finding is Finding.PAUSED:
            _log.warning("the process did not run for a while", for_s=round(look.for_s, 3))
        elif look.finding is Finding.STUCK:
            # The frame is not kept in a name: it keeps everything alive that its function holds.
            stack = "".join(traceback.format_stack(sys._current_frames().get(self._watched), STACK_DEPTH))
            _log.error("the event loop is stuck", for_s=round(look.for_s, 3), stack=stack)


def _late_after_s(policy: HealthPolicy) -> float:
    return policy.suspect_after_missed * policy.heartbeat_period_s
