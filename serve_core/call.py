"""Calls of methods that are somewhere else, as values: nothing is sent before one is awaited or iterated over."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator
from contextlib import aclosing
from typing import Any, NoReturn, Protocol

from serve_core.errors import MethodUnknownError
from serve_core.hints import result_hint
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import decode_value, encode_arguments, encode_value

_NO_STREAMS = frozenset((bytes, str, int, float, bool, list, dict, tuple, type(None)))
"""What most arguments are: to ask any of them whether it is a stream takes longer than to send it."""


class Way(Protocol):
    """How calls get to where they run. Its ``repr`` names that."""

    @property
    def target(self) -> type[Any] | None:
        """The class by whose annotations results are read, if it is known."""

    async def call(self, method: str, arguments: Payload) -> Payload:
        """The result of a method with one answer."""

    async def stream(
        self, method: str, arguments: Payload, items: AsyncIterable[Payload] | None
    ) -> AsyncGenerator[Payload, None]:
        """What a method gives that streams, or takes ``items``."""


class Call:
    """One call. ``await`` it for the result, or iterate over it with ``async for`` if the method streams; once.

    Arguments that are asynchronous iterators are sent item by item while the call runs.
    """

    __slots__ = ("_args", "_kwargs", "_name", "_used", "_way")

    def __init__(self, way: Way, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._way = way
        self._name = name
        self._args = args
        self._kwargs = kwargs
        self._used = False

    def __await__(self) -> Generator[Any, None, Any]:
        self._use()
        return self._result().__await__()

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        self._use()
        return self._stream()

    def _use(self) -> None:
        if self._used:
            raise RuntimeError(f"{self!r} was awaited before: make a new call for each request")
        self._used = True

    async def _result(self) -> Any:
        arguments, items = self._arguments()
        hint = result_hint(self._way.target, self._name, item=False)
        if items is not None:
            return decode_value(await self._only(await self._way.stream(self._name, arguments, _encoded(items))), hint)
        return decode_value(await self._way.call(self._name, arguments), hint)

    async def _stream(self) -> AsyncGenerator[Any, None]:
        arguments, items = self._arguments()
        hint = result_hint(self._way.target, self._name, item=True)
        encoded = None if items is None else _encoded(items)
        async with aclosing(await self._way.stream(self._name, arguments, encoded)) as payloads:
            async for payload in payloads:
                yield decode_value(payload, hint)

    async def _only(self, payloads: AsyncGenerator[Payload, None]) -> Payload:
        async with aclosing(payloads):
            async for payload in payloads:
                return payload
        raise MethodUnknownError(
            f"{self!r} returned nothing: it streams, so iterate over it with 'async for'",
            details={"method": self._name},
        )

    def _arguments(self) -> tuple[Payload, AsyncIterable[Any] | None]:
        """The encoded arguments, and the one that is a stream."""
        given = (*self._args, *self._kwargs.values()) if self._kwargs else self._args
        streams = [value for value in given if type(value) not in _NO_STREAMS and isinstance(value, AsyncIterable)]
        if not streams:
            return encode_arguments(self._args, self._kwargs), None
        if len(streams) > 1:
            raise TypeError(f"{self!r} was given {len(streams)} streams: a method takes at most one")
        args = [value for value in self._args if not isinstance(value, AsyncIterable)]
        kwargs = {name: value for name, value in self._kwargs.items() if not isinstance(value, AsyncIterable)}
        return encode_arguments(args, kwargs), streams[0]

    def __iter__(self) -> NoReturn:
        self._used = True
        raise TypeError(f"{self!r} is asynchronous: use 'async for', or 'await' if it returns one result")

    def result(self) -> NoReturn:
        """There is no blocking form: a call belongs to an event loop."""
        self._used = True
        raise TypeError(
            f"{self!r} has no blocking result: 'await' it; from another thread use asyncio.run_coroutine_threadsafe"
        )

    def __repr__(self) -> str:
        return f"<call of {self._name or '__call__'} of {self._way!r}>"

    def __del__(self) -> None:
        if not getattr(self, "_used", True):
            warnings.warn(f"{self!r} was never awaited: nothing was sent", RuntimeWarning, stacklevel=2)


async def _encoded(items: AsyncIterable[Any]) -> AsyncIterator[Payload]:
    async for item in items:
        yield encode_value(item, like=Encoding.MSGPACK)
