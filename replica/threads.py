"""Runs user code that is not asynchronous in threads, without ever losing sight of a thread that still runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar, cast

from replica.stay import Stay

T = TypeVar("T")

_END = object()


class ThreadRunner:
    """A pool of threads for calls.

    Args:
        count: How many threads there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = self._new_pool()

    def resize(self, count: int) -> None:
        """Changes the number of threads for the calls that begin from now on."""
        if count != self._count:
            self._count = count
            old, self._pool = self._pool, self._new_pool()
            old.shutdown(wait=False)

    def close(self) -> None:
        """Starts no call any more that waits for a thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[[], T], stay: Stay) -> T:
        """Calls ``function`` in a thread, in a copy of the present context.

        When this is cancelled, the thread cannot be: ``stay`` then lasts until it has ended.
        """
        return cast("T", await self._run(contextvars.copy_context(), function, stay))

    async def iterate(self, start: Callable[[], Iterator[T]], stay: Stay) -> AsyncIterator[T]:
        """The items of an iterator whose every step runs in a thread. It is closed when it is left before its end."""
        context = contextvars.copy_context()
        iterator = await self._run(context, lambda: iter(start()), stay)
        try:
            while (item := await self._run(context, lambda: next(iterator, _END), stay)) is not _END:
                yield cast("T", item)
        except (asyncio.CancelledError, GeneratorExit):
            close = getattr(iterator, "close", None)
            if close is not None:
                self._close(context, close, stay)
            raise

    async def _run(self, context: contextvars.Context, function: Callable[[], Any], stay: Stay) -> Any:
        # StopIteration and SystemExit do not pass through futures: the outcome travels as a value.
        future = self._pool.submit(context.run, _outcome, function)
        try:
            value, error = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.done():
                stay.hold(future)
                stay.in_thread = future
            raise
        if error is not None:
            raise error
        return value

    def _close(self, context: contextvars.Context, close: Callable[[], None], stay: Stay) -> None:
        """Closes an iterator in a thread, after the step that may still run."""
        closed: futures.Future[None] = futures.Future()
        stay.hold(closed)

        def run() -> None:
            context.run(_outcome, close)
            closed.set_result(None)

        def submit(_: futures.Future[Any] | None = None) -> None:
            try:
                self._pool.submit(run)
            except RuntimeError:  # the pool is closed: this very thread has to do
                run()

        if stay.in_thread is None:
            submit()
        else:
            stay.in_thread.add_done_callback(submit)

    def _new_pool(self) -> futures.ThreadPoolExecutor:
        return futures.ThreadPoolExecutor(self._count, thread_name_prefix="request")


class ThreadItems(Iterator[T]):
    """An asynchronous stream as a thread sees it: each step waits for the event loop.

    Args:
        items: The stream.
        loop: The event loop it lives on.
    """

    def __init__(self, items: AsyncIterator[T], loop: asyncio.AbstractEventLoop) -> None:
        self._items = items
        self._loop = loop
        self._closed = False
        self._pending: futures.Future[Any] | None = None

    def __next__(self) -> T:
        pending = asyncio.run_coroutine_threadsafe(self._read(), self._loop)
        self._pending = pending
        if self._closed:
            pending.cancel()
        item = pending.result()
        if item is _END:
            raise StopIteration
        return cast("T", item)

    def close(self) -> None:
        """Lets a thread that waits for an item go on, with an exception."""
        self._closed = True
        if self._pending is not None:
            self._pending.cancel()

    async def _read(self) -> Any:
        return await anext(self._items, _END)


async def in_own_thread(function: Callable[[], T], *, name: str) -> T:
    """Calls ``function`` in a thread of its own, which does not keep the process alive, in a copy of the context."""
    future: futures.Future[tuple[Any, BaseException | None]] = futures.Future()
    context = contextvars.copy_context()
    run = lambda: future.set_result(context.run(_outcome, function))  # noqa: E731 - a thread's whole body
    threading.Thread(target=run, name=name, daemon=True).start()
    # Not wrap_future: a cancelled wait would cancel the future under the thread's hands.
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def ended(_: futures.Future[Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(ended)
    await done.wait()
    value, error = future.result()
    if error is not None:
        raise error
    return cast("T", value)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 - user code; whoever waits for it raises it
        return None, error
