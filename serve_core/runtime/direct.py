"""Unary calls that are served by callbacks: a task for each costs more than most of them do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

F = TypeVar("F", bound=Callable[..., Any])

_BEGIN = "_serve_core_begin"

Begin = Callable[[bytes, Any], bool]
"""Begins to serve a request, as a ``DirectHandler`` does, and says so: False means that nothing was done, and that the coroutine is
to serve it.
"""


class DirectHandler(grpc.RpcMethodHandler):  # type: ignore[type-arg]  # of bytes, and not generic at run time
    """The handler of a unary method whose requests and responses are bytes.

    Args:
        unary_unary: The method as a coroutine: for servers that know no other, and behind interceptors.
        begin: The same by callbacks. It is called with the request and the call, a ``ServedCall``, and ends that, or says by
            ``wait``, ``answer`` or ``go_on`` how it goes on.
    """

    request_streaming = False
    response_streaming = False
    request_deserializer = None
    response_serializer = None
    unary_stream = None
    stream_unary = None
    stream_stream = None

    def __init__(
        self, unary_unary: Callable[[bytes, Any], Awaitable[bytes]], begin: Callable[[bytes, Any], None]
    ) -> None:
        self.unary_unary = unary_unary
        self.begin = begin


def begun_by(begin: Begin, function: F) -> F:
    """The method of a servicer with one request and one answer, which ``begin`` may serve by callbacks."""
    setattr(function, _BEGIN, begin)
    return function


def begin_of(function: Callable[..., Any]) -> Begin | None:
    """What may serve the method by callbacks."""
    begin: Begin | None = getattr(function, _BEGIN, None)
    return begin
