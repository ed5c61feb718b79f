"""Makes the handlers of generated code answer with a status that says what was wrong.

grpcio answers a request that does not parse, and any exception of a handler, with UNKNOWN or INTERNAL and a traceback
in the log. Here the first is INVALID_ARGUMENT, and a ``ServeError`` is answered as what it is.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Never, Protocol, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from serve_core.errors import ConfigInvalidError, FieldViolation, ServeError
from serve_core.runtime.direct import Begin, DirectHandler, begin_of
from serve_core.runtime.guarded import GuardedHandler

S = TypeVar("S")

MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # a text: not generic at run time
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Abort: TypeAlias = "Callable[[Context, ServeError], Awaitable[Never]]"
"""Ends a call with an error. ``abort_plainly`` is one; the wire format's own adds the details."""

_PLAIN = "_serve_core_plain"


class HandlerSink(Protocol):
    """The part of a server that generated ``add_X_to_server`` functions call."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods that these know."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, MethodHandler]) -> None:
        """Serve the methods of one service."""


async def abort_plainly(context: Context, error: ServeError) -> Never:
    """End a call with the error's code and message, without details."""
    await context.abort(grpc.StatusCode[error.code.name], error.message)


class GuardedRegistration:
    """Stands in for a server while generated code registers a servicer, and keeps guarded handlers.

    Attributes:
        generic_handlers: To be added to the real server.
        registered_handlers: The same, by service name and method name.
    """

    def __init__(self, abort: Abort) -> None:
        self._abort = abort
        self.generic_handlers: list[grpc.GenericRpcHandler] = []
        self.registered_handlers: dict[str, dict[str, MethodHandler]] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """The full names of the services that were registered."""
        named = [h.service_name() for h in self.generic_handlers if isinstance(h, grpc.ServiceRpcHandler)]
        return tuple(dict.fromkeys([*self.registered_handlers, *named]))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Called by generated code."""
        for handler in generic_rpc_handlers:
            named = isinstance(handler, grpc.ServiceRpcHandler)
            guarded = _GuardedService(handler, self._abort) if named else _GuardedGeneric(handler, self._abort)
            self.generic_handlers.append(guarded)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, MethodHandler]) -> None:
        """Called by generated code."""
        self.registered_handlers[service_name] = {
            name: guard(handler, self._abort) for name, handler in method_handlers.items() if not _is_left_out(handler)
        }


class _GuardedGeneric(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler, abort: Abort) -> None:
        self._inner = inner
        self._abort = abort

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> MethodHandler | None:
        handler = self._inner.service(handler_call_details)
        return None if handler is None else guard(handler, self._abort)


class _GuardedService(_GuardedGeneric, grpc.ServiceRpcHandler):
    def service_name(self) -> str:
        assert isinstance(self._inner, grpc.ServiceRpcHandler)
        return self._inner.service_name()


def at_once(function: Callable[[S, Any], Any]) -> Callable[[S, Any, Context], Awaitable[Any]]:
    """A servicer's method with one request and one answer that never waits, and asks nothing of its context.

    The server then calls it as a plain function wherever it can: without a task, and without a coroutine.
    """

    async def call(servicer: S, request: Any, context: Context) -> Any:
        del context
        return function(servicer, request)

    call.__doc__ = function.__doc__
    setattr(call, _PLAIN, function)
    return call


class _Unparsable:
    """Stands for a request that did not parse, from the deserializer to the handler, which can answer."""

    def __init__(self, error: ServeError) -> None:
        self.error = error


def guard(handler: MethodHandler, abort: Abort) -> MethodHandler:
    """The same handler, but a request that does not parse, and a ``ServeError`` from it, are answered by ``abort``.

    In a stream of requests, reading one that does not parse raises ``ConfigInvalidError`` in the handler.

    Raises:
        TypeError: The handler's function is not asynchronous.
    """
    function: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise TypeError(f"{getattr(function, '__qualname__', function)} must be an async function or generator")
    plain = getattr(function, _PLAIN, None)
    if plain is not None:
        return _direct(handler, partial(plain, function.__self__), abort)
    begin = begin_of(function)
    if begin is not None:
        return _begun(handler, _guarded(function, abort), begin)
    if handler.unary_unary is not None:
        return _guarded_unary(handler, function, abort)
    wrapped = _guarded_stream(function, abort) if inspect.isasyncgenfunction(function) else _guarded(function, abort)
    make = _FACTORIES[handler.request_streaming, handler.response_streaming]
    deserializer = handler.request_deserializer
    if deserializer is not None:
        deserializer = _raising(deserializer) if handler.request_streaming else _marking(deserializer)
    return make(wrapped, request_deserializer=deserializer, response_serializer=handler.response_serializer)


_FACTORIES: Mapping[tuple[bool, bool], Callable[..., MethodHandler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _is_left_out(handler: MethodHandler) -> bool:
    """Whether the servicer does not have the method: what is there is the generated one, which only refuses."""
    function: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return str(getattr(function, "__module__", "")).endswith("_pb2_grpc")


def _guarded(function: Callable[[Any, Context], Awaitable[Any]], abort: Abort) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        if isinstance(request, _Unparsable):
            await abort(context, request.error)
        try:
            return await function(request, context)
        except ServeError as error:
            await abort(context, error)

    return call


def _guarded_unary(
    handler: MethodHandler, function: Callable[[Any, Context], Awaitable[Any]], abort: Abort
) -> GuardedHandler:
    deserializer = handler.request_deserializer
    return GuardedHandler(
        _guarded(function, abort),
        request_deserializer=None if deserializer is None else _marking(deserializer),
        response_serializer=handler.response_serializer,
        parse=_unchanged if deserializer is None else _raising(deserializer),
        plain=function,
        abort=abort,
    )


def _direct(handler: MethodHandler, plain: Callable[[Any], Any], abort: Abort) -> DirectHandler:
    """The handler of a method that never waits."""
    parse = handler.request_deserializer or _unchanged
    serialize = handler.response_serializer or _unchanged

    def answer(raw: bytes) -> bytes:
        try:
            request = parse(raw)
        except (DecodeError, ValueError) as error:
            raise _not_parsed(raw, parse) from error
        response: bytes = serialize(plain(request))
        return response

    async def unary_unary(raw: bytes, context: Context) -> bytes:
        try:
            return answer(raw)
        except ServeError as error:
            await abort(context, error)

    def begin(raw: bytes, call: Any) -> None:
        try:
            response = answer(raw)
        except ServeError as error:
            call.go_on(abort(call, error))
        else:
            call.answer(response, ())

    return DirectHandler(unary_unary, begin)


def _begun(handler: MethodHandler, guarded: Callable[..., Awaitable[Any]], begin: Begin) -> DirectHandler:
    """The handler of a method that ``begin`` may serve by callbacks."""
    parse = _marking(handler.request_deserializer or _unchanged)
    serialize = handler.response_serializer or _unchanged

    async def unary_unary(raw: bytes, context: Context) -> bytes:
        response: bytes = serialize(await guarded(parse(raw), context))
        return response

    def begin_or_go_on(raw: bytes, call: Any) -> None:
        if not begin(raw, call):
            call.go_on(unary_unary(raw, call))

    return DirectHandler(unary_unary, begin_or_go_on)


def _unchanged(message: Any) -> Any:
    return message


def _guarded_stream(
    function: Callable[[Any, Context], AsyncIterator[Any]], abort: Abort
) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        if isinstance(request, _Unparsable):
            await abort(context, request.error)
        try:
            async with contextlib.aclosing(function(request, context)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response
        except ServeError as error:
            await abort(context, error)

    return call


def _raising(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return deserializer(raw)
        except (DecodeError, ValueError) as error:
            raise _not_parsed(raw, deserializer) from error

    return parse


def _marking(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse_or_mark(raw: bytes) -> Any:
        try:
            return deserializer(raw)
        except (DecodeError, ValueError):
            return _Unparsable(_not_parsed(raw, deserializer))

    return parse_or_mark


def _not_parsed(raw: bytes, deserializer: Callable[[bytes], Any]) -> ConfigInvalidError:
    message = getattr(getattr(deserializer, "__self__", None), "DESCRIPTOR", None)
    name = getattr(message, "full_name", "the expected message")
    violation = FieldViolation("", f"{len(raw)} bytes do not parse as {name}")
    return ConfigInvalidError([violation], what="the request")
