"""A call at a server as its handler has it, whatever carries it: requests, responses, metadata and status.

It is as grpcio's: https://grpc.github.io/grpc/python/grpc_asyncio.html#grpc.aio.ServicerContext.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Never

import grpc
import grpc.aio

from serve_core.runtime import clock

Metadata = Sequence[tuple[str, str | bytes]]

FIRST_REQUEST_S = 0.02
"""How long a stream that is refused unread waits for its first request, in seconds."""

OK = grpc.StatusCode.OK.value[0]
END_OF_TIME = 1e15
"""Seconds since the Unix epoch: gRPC's name for no deadline is far beyond."""

_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]


class ServedContext(ABC):
    """What a handler gets beside its request. All of its methods belong to the event loop's thread.

    Who carries the call derives from this: it says how messages, headers and the status travel, and what is known of the peer.

    Args:
        method: ``/package.Service/Method``.
        metadata: The headers that the caller sent.
        deadline: Seconds since the Unix epoch; infinity if there is none.
    """

    __slots__ = (
        "_aborted",
        "_callbacks",
        "_cancelled",
        "_closed",
        "_code",
        "_compression",
        "_deadline",
        "_deserialize",
        "_details",
        "_handler",
        "_initial_sent",
        "_metadata",
        "_read_all",
        "_read_any",
        "_serialize",
        "_status_sent",
        "_trailers",
        "_uncompressed",
        "method",
    )

    def __init__(self, *, method: str, metadata: Metadata, deadline: float) -> None:
        self.method = method
        self._deadline = deadline
        self._metadata = metadata
        self._handler: Any = None
        self._deserialize: Callable[[bytes], Any] | None = None
        self._serialize: Callable[[Any], bytes] | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._aborted = False
        self._cancelled = False
        self._closed = False
        self._compression: grpc.Compression | None = None
        self._initial_sent = False
        self._read_all = False
        self._read_any = False
        self._status_sent = False
        self._uncompressed = False
        self._code: Any = None
        self._details = ""
        self._trailers: Metadata = ()

    # What whoever carries it says.

    @abstractmethod
    async def _receive(self) -> bytes | None:
        """The next request; None after the last one."""

    @abstractmethod
    async def _send_message(self, raw: bytes, *, compressed: bool) -> None:
        """Sends one response, and waits until the flow control lets it go."""

    @abstractmethod
    async def _send_headers(self, metadata: Metadata) -> None:
        """Sends the headers."""

    @abstractmethod
    def _send_status(self, code: Any, details: str, trailers: Metadata, raw: bytes | None = None) -> None:
        """Ends the call, after ``raw`` if there is one. What cannot be sent of it is not: a call must not stay open."""

    @abstractmethod
    def _is_gone(self) -> bool:
        """Whether nothing can be sent any more."""

    # What handlers ask.

    async def read(self) -> Any:
        """The next request of a stream; ``grpc.aio.EOF`` after the last one."""
        self._read_any = True
        if self._read_all:
            return grpc.aio.EOF
        raw = await self._receive()
        if raw is None:
            self._read_all = True
            return grpc.aio.EOF
        return raw if self._deserialize is None else self._deserialize(raw)

    async def write(self, message: Any) -> None:
        """Sends one response of a stream, and waits until the flow control lets it go."""
        self._check_open()
        raw = message if self._serialize is None else self._serialize(message)
        await self._send_message(raw, compressed=self._next_compressed())

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the headers now."""
        self._check_open()
        if self._initial_sent:
            raise grpc.aio.UsageError("Initial metadata already sent")
        await self._send_headers(initial_metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Never:
        """Ends the call with a status, and raises ``grpc.aio.AbortError`` to leave the handler."""
        if self._aborted or self._status_sent:
            raise grpc.aio.UsageError("Abort already called!")
        if number(code) == OK:
            code, details = grpc.StatusCode.UNKNOWN, details or "abort() was called with the code OK"
        trailers = tuple(trailing_metadata) or self._trailers
        self._aborted = True
        self._code, self._details, self._trailers = code, details, trailers
        if self._is_unread():
            await self._first_request()
        if not self._closed:
            self._send_status(code, details, trailers)
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """The trailers to send with the status."""
        self._trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        """The trailers that were set."""
        return self._trailers

    def invocation_metadata(self) -> Metadata:
        """The headers that the caller sent."""
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """The code to end with."""
        self._code = code

    def code(self) -> Any:
        """The code that was set; None if none was."""
        return self._code

    def set_details(self, details: str) -> None:
        """The message to end with."""
        self._details = details

    def details(self) -> str:
        """The message that was set."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compresses the responses, if the caller takes that."""
        if self._initial_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        self._compression = compression

    def disable_next_message_compression(self) -> None:
        """Sends the next response as it is."""
        self._uncompressed = True

    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline, never below 0; None if there is none."""
        if self._deadline > END_OF_TIME:
            return None
        return max(self._deadline - clock.wall(), 0.0)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls ``callback`` with this once the call is over."""
        self._callbacks = [*(self._callbacks or ()), callback]

    def cancelled(self) -> bool:
        """Whether the caller is gone, or its deadline over."""
        return self._cancelled

    def done(self) -> bool:
        """Whether the status was sent, or nobody waits for it."""
        return self._status_sent or self._closed

    # What becomes of that.

    def _check_open(self) -> None:
        if self._aborted:
            raise grpc.aio.AbortError("Locally aborted.")
        if self._status_sent:
            raise grpc.aio.UsageError("RPC already finished.")

    def _next_compressed(self) -> bool:
        compressed = not self._uncompressed
        self._uncompressed = False
        return compressed

    def _is_unread(self) -> bool:
        return self._handler is not None and self._handler.request_streaming and not self._read_any

    async def _first_request(self) -> None:
        """Lets the first request of a stream arrive, for a moment, before the stream is refused: a caller that is cut off
        as it writes hears of its write, and not of the status.
        """
        self._read_any = True
        first = asyncio.ensure_future(self._receive())
        await asyncio.wait((first,), timeout=FIRST_REQUEST_S)
        if not first.done():
            first.cancel()


def number(code: Any) -> int:
    """A status code as the core wants it: None is OK, and what is none is UNKNOWN."""
    if isinstance(code, grpc.StatusCode):
        number: int = code.value[0]
        return number
    if code is None:
        return OK
    return code if isinstance(code, int) else int(_UNKNOWN)
