"""Runs coroutines at once: only one that has to wait costs a task of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, NoReturn

WAITED_MAX = 16
"""As many that had to wait, one after the other, let most of the next begin in tasks."""

TASKS_AHEAD = 31
"""So many of those, before one is begun at once again, to see whether it has to wait."""

# Documented for those who implement tasks: https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
_enter_task = asyncio.tasks._enter_task
_leave_task = asyncio.tasks._leave_task


class EagerTasks:
    """Begins coroutines from wherever the event loop is, and ends those that need not wait before it goes on.

    While one runs, ``asyncio.current_task()`` is a spare task; when it has to wait, that task goes on with it, and another
    one becomes the spare. So coroutines that never wait share a task, one after the other. Each has a context
    (``contextvars``) of its own, as with ``create_task``.

    Where all of them wait, as in a router, a spare for each costs more than it saves: then most get a task from the start,
    and begin with the loop's next turn.

    Args:
        loop: The event loop.
        running: Holds the tasks of coroutines that wait, until they end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, running: set[asyncio.Task[Any]]) -> None:
        self.loop = loop
        self.running = running
        self._spare: tuple[asyncio.Task[None], _Successor] | None = None
        self._waited = 0
        """How many of those that were begun at once had to wait, since the last that had not."""
        self._tasks_ahead = 0
        """How many get a task from the start before the next is begun at once."""

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[Any] | None:
        """Runs a coroutine until it has to wait. Returns the task that goes on with it; None if it is over.

        What it raises is raised here, unless it had to wait.
        """
        if self._tasks_ahead:
            self._tasks_ahead -= 1
            return self._hold(self.loop.create_task(coroutine))
        loop = self.loop
        task, successor = self._spare or self._new_spare()
        self._spare = None
        context = contextvars.copy_context()
        outer = asyncio.current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        _enter_task(loop, task)
        try:  # The first step of the coroutine, as if that task took it.
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            self._spare = None if task.cancelling() else (task, successor)
            self._waited = 0
            return None
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        successor.succeed(coroutine, context, waits_for)
        self._waited += 1
        if self._waited >= WAITED_MAX:
            self._tasks_ahead = TASKS_AHEAD
        return self._hold(task)

    def close(self) -> None:
        """Ends the spare task. What waits goes on."""
        if self._spare is not None:
            self._spare[0].cancel()
            self._spare = None

    def _hold(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    def _new_spare(self) -> tuple[asyncio.Task[None], _Successor]:
        successor = _Successor(self.loop.create_future())
        return self.loop.create_task(successor, name="spare"), successor


class _Successor(Coroutine[Any, Any, None]):
    """What a spare task runs: it waits until it succeeds a coroutine that has begun, and then is that.

    Args:
        called: The future to wait for until then.
    """

    __slots__ = ("__weakref__", "_called", "_context", "_coroutine", "_taken_over", "_waits_for")

    def __init__(self, called: asyncio.Future[None]) -> None:
        self._called = called
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._context: contextvars.Context | None = None
        self._waits_for: Any = None
        self._taken_over = False

    @property
    def cr_await(self) -> Coroutine[Any, Any, None] | None:
        """The coroutine that it is by now, for those who show where tasks are."""
        return self._coroutine

    def succeed(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context, waits_for: Any) -> None:
        """From its next step on it is ``coroutine``, which waits for this."""
        self._coroutine, self._context, self._waits_for = coroutine, context, waits_for
        if getattr(waits_for, "_asyncio_future_blocking", False):
            waits_for._asyncio_future_blocking = False  # As a task does that takes a future to wait for.
        if not self._called.done():
            self._called.set_result(None)

    def send(self, value: Any) -> Any:
        """The next step."""
        if self._coroutine is None or self._context is None:
            return _awaited(self._called)
        if self._taken_over:
            return self._context.run(self._coroutine.send, value)
        self._taken_over = True
        return _awaited(self._waits_for)

    def throw(self, error: Any, *_: Any) -> Any:
        """The next step, with an exception."""
        if self._coroutine is None or self._context is None:
            raise error
        if not self._taken_over:
            self._taken_over = True
            if isinstance(error, asyncio.CancelledError) and _cancelled(self._waits_for, error):
                return _awaited(self._waits_for)  # It passes the cancellation on, as to any task that waits for it.
        return self._context.run(self._coroutine.throw, error)

    def close(self) -> None:
        """Ends it where it is."""
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> NoReturn:
        raise TypeError("only a task can run this")


def _awaited(future: Any) -> Any:
    """What a coroutine gives a task to say that it waits for a future; None is no future, but a turn of the loop."""
    if hasattr(future, "_asyncio_future_blocking"):
        future._asyncio_future_blocking = True
    return future


def _cancelled(future: Any, error: asyncio.CancelledError) -> bool:
    """Cancels what is waited for, if that can be, with the message of ``error``."""
    if not hasattr(future, "_asyncio_future_blocking"):
        return False
    return bool(future.cancel(error.args[0]) if error.args else future.cancel())
