"""Owners of tasks. Every task of serve-core belongs to one supervisor, which outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from serve_core.runtime import log

T = TypeVar("T")

CANCEL_TIMEOUT_S = 10.0
"""How long a cancelled task may take to end before its supervisor leaves it behind, with an error in the log."""

_log = log.get_logger(__name__)


class Supervisor:
    """Owns named tasks: none outlives it, and the failure of one is the failure of all.

    ::

        async with Supervisor("router") as tasks:
            tasks.spawn(watch(), name="watcher")
            tasks.spawn(measure(), name="lag")
            await stop.wait()

    Leaving the block cancels the tasks, the youngest first, each ended before the next is told: what was started later
    may lean on what was started earlier. A task that merely returns is forgotten. A task that raises ends the owner:
    the body of the block is cancelled, and the block raises that first error as it is, without a group around it. The
    errors of the others go to the log.

    An owner that is not one block opens it with ``contextlib.AsyncExitStack`` or with ``open`` and ``close``, and may
    pass ``on_crash``, which is then called with the error in place of cancelling the task that opened the supervisor.
    """

    def __init__(
        self,
        name: str = "supervisor",
        *,
        on_crash: Callable[[BaseException], None] | None = None,
        cancel_timeout_s: float = CANCEL_TIMEOUT_S,
    ) -> None:
        self._name = name
        self._on_crash = on_crash
        self._cancel_timeout_s = cancel_timeout_s
        self._tasks: dict[asyncio.Task[Any], str] = {}
        self._owner: asyncio.Task[Any] | None = None
        self._owner_cancelled = False
        self._open = False
        self._error: BaseException | None = None

    @property
    def error(self) -> BaseException | None:
        """What the first task to crash raised, or None."""
        return self._error

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks that run, the oldest first."""
        return tuple(self._tasks.values())

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start a task.

        Raises:
            RuntimeError: The supervisor is not open (yet, or any more). The coroutine is closed, not run.
        """
        if not self._open:
            coro.close()
            raise RuntimeError(f"{self._name} is not open, so {name} was not started")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._name}/{name}")
        self._tasks[task] = name
        task.add_done_callback(self._ended)
        return task

    def open(self) -> None:
        """Allow tasks. The running task becomes the one that a crash cancels, unless ``on_crash`` was given."""
        self._owner = asyncio.current_task()
        self._open = True

    async def close(self) -> None:
        """Cancel every task, the youngest first, and wait for their ends.

        Raises:
            BaseException: What the first task to crash raised.
        """
        await self._cancel_all()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        cancelled_from_outside = await self._cancel_all()
        if self._owner_cancelled:
            # Take back the cancellation that _ended asked for; what is left of the count came from outside.
            assert self._owner is not None
            cancelled_from_outside = self._owner.uncancel() > 0 or cancelled_from_outside
            ours = isinstance(exc, asyncio.CancelledError) and not cancelled_from_outside
        else:
            ours = False
        if cancelled_from_outside and exc is None:
            raise asyncio.CancelledError
        if self._error is not None and (exc is None or ours):
            raise self._error

    def _ended(self, task: asyncio.Task[Any]) -> None:
        name = self._tasks.pop(task, None)
        # Without a name it was told of before: a callback that is queued already cannot be taken back.
        if name is None or task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if self._error is not None:
            _log.error("another task crashed", supervisor=self._name, task=name, exc_info=error)
            return
        self._error = error
        error.add_note(f"in task {self._name}/{name}")
        if self._on_crash is not None:
            self._on_crash(error)
        elif self._open and self._owner is not None and not self._owner.done():
            self._owner_cancelled = True
            self._owner.cancel(f"task {name} crashed")

    async def _cancel_all(self) -> bool:
        """Returns whether someone else than this supervisor cancelled the owner meanwhile."""
        self._open = False
        cancelled_from_outside = False
        while self._tasks:
            task = next(reversed(self._tasks))
            task.cancel()
            loop = asyncio.get_running_loop()
            until = loop.time() + self._cancel_timeout_s
            while not task.done() and loop.time() < until:
                try:
                    await asyncio.wait({task}, timeout=until - loop.time())
                except asyncio.CancelledError:
                    # The cancellation is kept for the end: a second one must not leave tasks behind.
                    cancelled_from_outside = cancelled_from_outside or not self._owner_cancelled
            if not task.done():
                _log.error("a cancelled task does not end", supervisor=self._name, task=self._tasks[task])
                task.remove_done_callback(self._ended)
                del self._tasks[task]
            elif task in self._tasks:
                # Done callbacks run one turn of the loop later.
                task.remove_done_callback(self._ended)
                self._ended(task)
        return cancelled_from_outside
