"""What is sent and received for one call, as batches of operations of the core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from serve_core.runtime import log
from serve_core.runtime.core.binding import cygrpc
from serve_core.runtime.core.completion import CompletionLoop

Metadata = Sequence[tuple[str, str | bytes]]

NO_FLAGS = 0

OK = grpc.StatusCode.OK.value[0]
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_COMPRESSION_KEY = cygrpc.GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY
_COMPRESSION_NAMES = {
    grpc.Compression.NoCompression: "identity",
    grpc.Compression.Deflate: "deflate",
    grpc.Compression.Gzip: "gzip",
}
_log = log.get_logger(__name__)


def _ignore(event: Any) -> None:
    """Nobody waits for this."""


class Batches:
    """The core's end of a call. An operation object holds what it received, so each is used once.

    The core takes one message at a time each way. Who sends or receives meanwhile waits; one whose waiting was cancelled
    leaves its operation under way, and a message that arrives then is the next one's to receive.

    Args:
        call: The core's call.
        completion: Handles the events of the call.
    """

    __slots__ = (
        "_call",
        "_closed",
        "_completion",
        "_compression",
        "_initial_sent",
        "_kept",
        "_reader",
        "_status_sent",
        "_writer",
    )

    def __init__(self, call: Any, completion: CompletionLoop) -> None:
        self._call = call
        self._completion = completion
        self._closed = False
        self._initial_sent = False
        self._status_sent = False
        self._compression: grpc.Compression | None = None
        self._reader: asyncio.Future[bytes | None] | None = None
        self._writer: asyncio.Future[bool] | None = None
        self._kept: tuple[bytes | None] | None = None

    def _ask(self, operations: tuple[Any, ...], tag: Callable[[Any], None]) -> bool:
        """Has the core do this, and ``tag`` called when it is done; False if the call is over, and nothing is done.

        Raises:
            grpc.aio.InternalError: The core refuses.
            TypeError: An operation holds what the core cannot take.
        """
        if self._is_gone():
            return False
        error = self._call.start_server_batch(operations, tag)
        if error:
            raise grpc.aio.InternalError(f"the core refuses with error {error}")
        return True

    def _is_gone(self) -> bool:
        # The core ends the process if it is asked for anything after its queue was closed.
        return self._closed or not self._completion.is_open

    def _with_headers(self, *operations: Any, metadata: Metadata = ()) -> tuple[Any, ...]:
        """The operations, after the headers if those were not sent yet."""
        if self._initial_sent:
            return operations
        sent = tuple(metadata)
        if self._compression is not None:
            sent = ((_COMPRESSION_KEY, _COMPRESSION_NAMES[self._compression]), *sent)
        return (cygrpc.SendInitialMetadataOperation(sent or None, NO_FLAGS), *operations)

    def _send_status(self, code: Any, details: str, trailers: Metadata, *messages: Any) -> None:
        """Ends the call, after ``messages``: at most one. What cannot be sent of it is not: a call must not stay open."""
        self._status_sent = True
        try:
            status = cygrpc.SendStatusFromServerOperation(trailers, number(code), details.encode(), NO_FLAGS)
            self._ask(self._with_headers(*messages, status), _ignore)
        except Exception as error:  # noqa: BLE001 - all of these are the handler's
            _log.error("the end of a call could not be sent", code=str(code), exc_info=error)
            told = f"Unexpected {type(error)}: {error}".encode()
            status = cygrpc.SendStatusFromServerOperation((), _UNKNOWN, told, NO_FLAGS)
            self._ask(self._with_headers(status), _ignore)

    async def _send(self, *operations: Any, metadata: Metadata = ()) -> None:
        while self._writer is not None:
            if self._writer.done():  # Its waiting was cancelled, but it is still under way.
                self._writer = self._completion.loop.create_future()
            await asyncio.wait((self._writer,))
        success = False
        if self._ask(self._with_headers(*operations, metadata=metadata), self._on_sent):
            self._initial_sent = True
            self._writer = self._completion.loop.create_future()
            success = await self._writer
        if not success:
            # The caller is gone. That is told to the handler's task by its cancellation.
            raise grpc.aio.InternalError("the message could not be sent: the call is over")

    def _on_sent(self, event: Any) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(event.success)

    async def _receive(self) -> bytes | None:
        while self._reader is not None and not self._reader.done():
            await asyncio.wait((self._reader,))
        if self._kept is not None:
            (raw,), self._kept = self._kept, None
            return raw
        # If there is a reader now, its waiting was cancelled: what it began is taken over.
        if self._reader is None and not self._ask((cygrpc.ReceiveMessageOperation(NO_FLAGS),), self._on_received):
            return None
        self._reader = self._completion.loop.create_future()
        return await self._reader

    def _on_received(self, event: Any) -> None:
        reader, self._reader = self._reader, None
        raw = event.batch_operations[0].message()
        if reader is None or reader.done():
            self._kept = (raw,)
        else:
            reader.set_result(raw)


def number(code: Any) -> int:
    """A status code as the core wants it: None is OK, and what is none is UNKNOWN."""
    if isinstance(code, grpc.StatusCode):
        number: int = code.value[0]
        return number
    if code is None:
        return OK
    return code if isinstance(code, int) else int(_UNKNOWN)
