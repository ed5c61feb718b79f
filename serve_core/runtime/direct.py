"""Unary calls that are served by callbacks: a task for each costs more than most of them do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc


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
