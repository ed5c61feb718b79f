"""What is sent and received for one call, as batches of operations of the core."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from serve_core.runtime.core.binding import cygrpc

Metadata = Sequence[tuple[str, str | bytes]]

NO_FLAGS = 0

OK = grpc.StatusCode.OK.value[0]
_COMPRESSION_KEY = cygrpc.GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY
_COMPRESSION_NAMES = {
    grpc.Compression.NoCompression: "identity",
    grpc.Compression.Deflate: "deflate",
    grpc.Compression.Gzip: "gzip",
}


def _ignore(event: Any) -> None:
    """Nobody waits for this."""


class Batches:
    """The core's end of a call. An operation object holds what it received, so each is used once.

    Args:
        call: The core's call.
        loop: The running event loop.
    """

    __slots__ = ("_call", "_closed", "_compression", "_initial_sent", "_loop", "_status_sent")

    def __init__(self, call: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop
        self._closed = False
        self._initial_sent = False
        self._status_sent = False
        self._compression: grpc.Compression | None = None

    def _initial(self, metadata: Metadata) -> Any:
        self._initial_sent = True
        sent = tuple(metadata)
        if self._compression is not None:
            sent = ((_COMPRESSION_KEY, _COMPRESSION_NAMES[self._compression]), *sent)
        return cygrpc.SendInitialMetadataOperation(sent or None, NO_FLAGS)

    def _send_status(self, code: Any, details: str, trailers: Metadata) -> None:
        value = OK if code is None else number(code)
        status = cygrpc.SendStatusFromServerOperation(trailers, value, details.encode(), NO_FLAGS)
        self._finish((status,) if self._initial_sent else (self._initial(()), status))

    def _finish(self, operations: tuple[Any, ...]) -> None:
        self._status_sent = True
        if not self._closed:  # The core takes nothing more for a call that is over.
            self._call.start_server_batch(operations, _ignore)

    async def _send(self, operations: tuple[Any, ...]) -> None:
        success = False
        if not self._closed:
            sent = self._loop.create_future()
            self._call.start_server_batch(operations, _Answer(sent))
            success = await sent
        if not success:
            # The caller is gone. That is told to the handler's task by its cancellation.
            raise grpc.aio.InternalError("the message could not be sent: the call is over")

    async def _receive(self) -> bytes | None:
        if self._closed:
            return None
        received = self._loop.create_future()
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(NO_FLAGS),), _Message(received))
        raw: bytes | None = await received
        return raw

    def _check_open(self) -> None:
        if self._status_sent:
            raise grpc.aio.UsageError("RPC already finished.")


class _Answer:
    """Tells a future whether a batch succeeded."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[bool]) -> None:
        self._future = future

    def __call__(self, event: Any) -> None:
        if not self._future.done():
            self._future.set_result(event.success)


class _Message:
    """Gives a future the message that a batch received; None after the last one, or when the call is over."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[bytes | None]) -> None:
        self._future = future

    def __call__(self, event: Any) -> None:
        if not self._future.done():
            self._future.set_result(event.batch_operations[0].message())


def number(code: Any) -> int:
    """A status code as the core wants it; what is none is UNKNOWN."""
    if isinstance(code, grpc.StatusCode):
        number: int = code.value[0]
        return number
    return code if isinstance(code, int) else int(grpc.StatusCode.UNKNOWN.value[0])
