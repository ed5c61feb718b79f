"""Runs the methods of the user's object: on the event loop if they are asynchronous, else in threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from replica.calls import Calls
from replica.methods import LoadedMethod
from replica.stay import Stay
from replica.threads import ThreadItems, ThreadRunner
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import encode_value


class Worker:
    """Calls methods with decoded arguments, and encodes what they give.

    Whatever user code raises arrives as ``ApplicationError``, never as an error of ours that it may look like: a
    request that was delivered must not seem to be refused. Arguments that do not fit raise ``ConfigInvalidError``.

    Args:
        calls: Tells what to make of exceptions.
        threads: Where methods run that are not asynchronous.
    """

    def __init__(self, calls: Calls, threads: ThreadRunner) -> None:
        self._calls = calls
        self._threads = threads

    def call(self, method: LoadedMethod, arguments: Payload, stay: Stay) -> Awaitable[Payload]:
        """The result of a method with one answer."""
        args, kwargs = method.decoder.decode(arguments)
        return self._result(method, args, kwargs, arguments.encoding, stay)

    async def stream(
        self, method: LoadedMethod, arguments: Payload, items: AsyncIterator[Any], stay: Stay
    ) -> AsyncIterator[Payload]:
        """The items of a method that streams, or the one result of a method that only takes a stream."""
        args, kwargs = method.decoder.decode(arguments)
        feed: Any = items if method.on_loop else ThreadItems(items, asyncio.get_running_loop())
        bound_args, bound_kwargs = method.bind(args, kwargs, feed)
        try:
            if method.streams_out:
                outputs = self._outputs(method, bound_args, bound_kwargs, arguments.encoding, stay)
                async with contextlib.aclosing(outputs):  # type: ignore[type-var]
                    async for output in outputs:
                        yield output
            else:
                yield await self._result(method, bound_args, bound_kwargs, arguments.encoding, stay)
        finally:
            if isinstance(feed, ThreadItems):
                feed.close()

    async def _result(self, method: LoadedMethod, args: Any, kwargs: Any, encoding: Encoding, stay: Stay) -> Payload:
        try:
            if method.on_loop:
                value = await method.function(*args, **kwargs)
            else:
                value = await self._threads.run(lambda: method.function(*args, **kwargs), stay)
                if inspect.isawaitable(value):
                    value = await value
            return encode_value(value, like=encoding)
        except BaseException as error:
            raise self._calls.user_error(error) from error

    async def _outputs(
        self, method: LoadedMethod, args: Any, kwargs: Any, encoding: Encoding, stay: Stay
    ) -> AsyncIterator[Payload]:
        try:
            if method.on_loop:
                values = method.function(*args, **kwargs)
                if inspect.isawaitable(values):
                    values = await values
            else:
                values = self._threads.iterate(lambda: method.function(*args, **kwargs), stay)
            async with contextlib.AsyncExitStack() as stack:
                if hasattr(values, "aclose"):
                    await stack.enter_async_context(contextlib.aclosing(values))
                async for value in values:
                    yield encode_value(value, like=encoding)
        except GeneratorExit:
            raise
        except BaseException as error:
            raise self._calls.user_error(error) from error
