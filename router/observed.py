"""Counts the calls of a servicer, and refuses them while the router drains, without the servicer knowing."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio

from router.gate import Gate
from router.observe import ObservedCall, Observer
from serve_core.runtime.direct import Begin, begun_by
from serve_core.wire.errors import decode_error

RESERVE_METHODS = frozenset(("ReserveSlot", "ReserveGang"))
ALWAYS_OPEN = frozenset(("GetRouter",))
"""Methods that only tell: they are answered before the gate opens and after it closes."""

Context = grpc.aio.ServicerContext[Any, Any]


class ObservedServicer:
    """Stands in for a servicer whose methods are all asynchronous.

    Args:
        servicer: Who answers.
        service: The service's full name.
        gate: Refuses new calls while the router drains.
        observer: Counts calls, and what becomes of reservations.
        begins: What may serve methods by callbacks, by their names. It sees to all of this by itself.
    """

    def __init__(
        self,
        servicer: object,
        *,
        service: str,
        gate: Gate,
        observer: Observer,
        begins: Mapping[str, Begin] | None = None,
    ) -> None:
        self._servicer = servicer
        self._service = service
        self._gate = gate
        self._observer = observer
        self._begins = begins or {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The method of the servicer, observed."""
        function = getattr(self._servicer, name)
        if inspect.isasyncgenfunction(function):
            return self._stream(name, function)
        return self._unary(name, function)

    def _unary(self, name: str, function: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        path = f"/{self._service}/{name}"

        async def call(request: Any, context: Context) -> Any:
            observed = self._observer.call(path)
            try:
                with observed, _noting_abort(observed, context):
                    async with self._entered(name, context):
                        return await function(request, context)
            finally:
                if name in RESERVE_METHODS:
                    self._observer.reserved(observed.outcome)

        begin = self._begins.get(name)
        return call if begin is None else begun_by(begin, call)

    def _stream(
        self, name: str, function: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        path = f"/{self._service}/{name}"

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._observer.call(path) as observed, _noting_abort(observed, context):
                async with (
                    self._entered(name, context),
                    contextlib.aclosing(function(request, context)) as answers,  # type: ignore[type-var]
                ):
                    async for answer in answers:
                        yield answer

        return call

    def _entered(self, name: str, context: Context) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext() if name in ALWAYS_OPEN else self._gate.entered(context.time_remaining())


@contextlib.contextmanager
def _noting_abort(observed: ObservedCall, context: Context) -> Iterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        observed.failed(_aborted_with(context))
        raise


def _aborted_with(context: Context) -> BaseException:
    """What a servicer that has aborted a call told its caller."""
    code = context.code()
    trailers = grpc.aio.Metadata(*(context.trailing_metadata() or ()))
    told = grpc.aio.AioRpcError(
        code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN,
        grpc.aio.Metadata(),
        trailers,
        details=context.details(),
    )
    return decode_error(told) or told
