"""Unary methods whose errors of ours are answered with a status of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Never

import grpc

from serve_core.errors import ServeError


class GuardedHandler(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # not generic at run time
    """The handler of a unary method that is a coroutine.

    For servers that know no more than grpcio it is one function. Ours calls what that is made of by itself, which is a coroutine
    less for each call.

    Args:
        unary_unary: The whole of it, for what ``request_deserializer`` makes of a request.
        request_deserializer: That. It raises nothing.
        response_serializer: Makes bytes of a response; None means that it is those.
        parse: Makes a request of bytes, or raises ``ServeError``.
        plain: The method itself, for what ``parse`` gives.
        abort: Ends the call with what either raises, if that is a ``ServeError``.
    """

    request_streaming = False
    response_streaming = False
    unary_stream = None
    stream_unary = None
    stream_stream = None

    def __init__(
        self,
        unary_unary: Callable[[Any, Any], Awaitable[Any]],
        *,
        request_deserializer: Callable[[bytes], Any] | None,
        response_serializer: Callable[[Any], bytes] | None,
        parse: Callable[[bytes], Any],
        plain: Callable[[Any, Any], Awaitable[Any]],
        abort: Callable[[Any, ServeError], Awaitable[Never]],
    ) -> None:
        self.unary_unary = unary_unary
        self.request_deserializer = request_deserializer
        self.response_serializer = response_serializer
        self.parse = parse
        self.plain = plain
        self.abort = abort
