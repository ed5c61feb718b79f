"""A call as grpcio's core carries it: what is sent and received, as batches of operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from serve_core.runtime import log
from serve_core.runtime.core.binding import constant, cygrpc
from serve_core.runtime.core.completion import CompletionLoop
from serve_core.runtime.core.lookout import Lookout
from serve_core.runtime.core.pump import Pump, Source
from serve_core.runtime.eager import EagerTasks
from serve_core.runtime.served import ServedCall
from serve_core.runtime.served_context import OK, Metadata, number

NO_FLAGS = 0

_GATHER = constant("WriteFlag.buffer_hint")
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_COMPRESSION_KEY = constant("GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY")
_COMPRESSION_NAMES = {
    grpc.Compression.NoCompression: "identity",
    grpc.Compression.Deflate: "deflate",
    grpc.Compression.Gzip: "gzip",
}
_log = log.get_logger(__name__)


def _ignore(event: Any) -> None:
    """Nobody waits for this."""


class ServerCall(ServedCall):
    """The core's end of a call. An operation object holds what it received, so each is used once.

    Whether the caller is gone is asked once the handler of a stream has to wait, and that of a single answer has waited for a
    while: for most calls, it is told with the status.

    The core takes one message at a time each way. Who sends or receives meanwhile waits; one whose waiting was cancelled
    leaves its operation under way, and a message that arrives then is the next one's to receive.

    Args:
        event: The core's event that tells of the call.
        completion: Handles the events of the call.
        tasks: Run the handlers.
        lookout: Has the call ask whether its caller is gone.
    """

    __slots__ = (
        "_call",
        "_close_asked",
        "_completion",
        "_kept",
        "_last_operations",
        "_lookout",
        "_reader",
        "_tasks",
        "_writer",
    )

    def __init__(self, event: Any, completion: CompletionLoop, tasks: EagerTasks, lookout: Lookout) -> None:
        details = event.call_details
        super().__init__(
            completion.loop,
            method=details.method.decode(errors="replace"),
            metadata=event.invocation_metadata,
            deadline=details.deadline,
            running=tasks.running,
        )
        self._tasks = tasks
        self._lookout = lookout
        self._close_asked = False
        self._call = event.call
        self._completion = completion
        self._reader: asyncio.Future[bytes | None] | None = None
        self._writer: asyncio.Future[bool] | None = None
        self._kept: tuple[bytes | None] | None = None
        self._last_operations: tuple[Any, ...] = ()

    # What the server asks.

    def serve(self, handler: Any) -> None:
        """Runs a method handler."""
        self._begin(handler)
        if handler.request_streaming:
            self._serve_requests()
        else:
            self._ask((cygrpc.ReceiveMessageOperation(NO_FLAGS),), self._on_request)

    # The context of the handler, as far as it depends on the core.

    def peer(self) -> str:
        """Who calls."""
        peer = self._call.peer()
        return peer.decode() if isinstance(peer, bytes) else str(peer)

    def peer_identities(self) -> Iterable[bytes] | None:
        """Who the caller has proved to be."""
        identities: Iterable[bytes] | None = cygrpc.peer_identities(self._call)
        return identities

    def peer_identity_key(self) -> str | None:
        """The property of the authentication that identifies the caller."""
        key = cygrpc.peer_identity_key(self._call)
        return key.decode() if key is not None else None

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        """What is known of the caller's authentication."""
        known = cygrpc.auth_context(self._call)
        return {key.decode(): value for key, value in known.items()} if known else {}

    # What only this carrier of calls has.

    async def send_from(self, source: Source, check: Callable[[bytes], None]) -> None:
        """Sends the messages of ``source`` as they come, until it has ended and the flow control has let all of them go.

        As writing each of them is, but for what that costs. Whoever writes meanwhile waits for the end of this. ``check`` is
        called with each before it is sent. Raises as ``write``, and what ``check`` raises.
        """
        self._check_open()
        await self._until_free()
        over = self._writer = self._loop.create_future()
        pump = Pump(source, check, self._pass_on, over, self._free)
        source.tell(pump.go_on)
        try:
            pump.go_on()
            await over
        finally:
            source.tell(None)
            if self._writer is over and not pump.busy:
                self._free()

    # The life of the call.

    def _start(self, run: Any) -> None:
        self._task = self._tasks.start(run)
        if self._task is not None:
            self._last()

    def _last(self) -> None:
        if self._handler is None or self._handler.response_streaming or self._handler.request_streaming:
            self.watch_close()  # Who writes is to hear of it before a write fails.
        else:
            self._lookout.add(self)

    def watch_close(self) -> None:
        """Has the core tell whether the caller is gone."""
        if not self._close_asked and not self._status_sent:
            self._close_asked = self._ask((cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), self._on_close)

    def _on_close(self, event: Any) -> None:
        """The core says that the call is over: by its status, or because the caller is gone or its deadline over."""
        self._closed = True
        if event.batch_operations[-1].cancelled():
            self._serve_cancelled()

    # Operations.

    def _on_request(self, event: Any) -> None:
        self._serve_request(event.batch_operations[0].message())

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

    def leave(self) -> None:
        """Gives the end of the call to the core, from the outbox."""
        operations, self._last_operations = self._last_operations, ()
        if self._is_gone():
            return
        try:
            self._give_last(operations)
        except Exception as error:  # noqa: BLE001 - all of these are the handler's
            try:
                self._give_last(self._failure(error))
            except Exception:  # noqa: BLE001 - other answers are to leave after this one
                _log.exception("a call could not be ended", method=self.method)

    def _send_status(self, code: Any, details: str, trailers: Metadata, raw: bytes | None = None) -> None:
        self._status_sent = True
        try:
            value = OK if code is None else number(code)
            status = cygrpc.SendStatusFromServerOperation(trailers, value, details.encode(), NO_FLAGS)
            if raw is None:
                self._last_operations = (status,)
            else:
                flags = cygrpc.WriteFlag.no_compress if self._uncompressed else NO_FLAGS
                self._last_operations = (cygrpc.SendMessageOperation(raw, flags), status)
        except Exception as error:  # noqa: BLE001 - all of these are the handler's
            self._last_operations = self._failure(error)
        self._completion.outbox.add(self)

    def _failure(self, error: Exception) -> tuple[Any, ...]:
        """The end of a call whose own could not be sent."""
        _log.error("the end of a call could not be sent", method=self.method, exc_info=error)
        told = f"Unexpected {type(error)}: {error}".encode()
        return (cygrpc.SendStatusFromServerOperation((), _UNKNOWN, told, NO_FLAGS),)

    def _give_last(self, operations: tuple[Any, ...]) -> None:
        if not self._initial_sent:
            operations = self._with_headers(*operations)
        tag: Callable[[Any], None] = _ignore
        if not self._close_asked:
            operations = (*operations, cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS))
            tag = self._on_close
        if error := self._call.start_server_batch(operations, tag):
            raise grpc.aio.InternalError(f"the core refuses with error {error}")
        self._close_asked = True

    async def _send_message(self, raw: bytes, *, compressed: bool) -> None:
        await self._send(cygrpc.SendMessageOperation(raw, _flags(compressed=compressed)))

    async def _send_headers(self, metadata: Metadata) -> None:
        await self._send(metadata=metadata)

    async def _send(self, *operations: Any, metadata: Metadata = ()) -> None:
        await self._until_free()
        success = False
        if self._ask(self._with_headers(*operations, metadata=metadata), self._on_sent):
            self._initial_sent = True
            self._writer = self._loop.create_future()
            success = await self._writer
        if not success:
            # The caller is gone. That is told to the handler's task by its cancellation.
            self.watch_close()
            self._closed = True
            raise grpc.aio.InternalError("the message could not be sent: the call is over")

    async def _until_free(self) -> None:
        while self._writer is not None:
            if self._writer.done():  # Its waiting was cancelled, but it is still under way.
                self._writer = self._loop.create_future()
            await asyncio.wait((self._writer,))

    def _free(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(False)

    def _pass_on(self, raw: bytes, waits: bool, tag: Callable[[Any], None]) -> bool:  # noqa: FBT001 - as ``Pump`` calls it
        if not self._initial_sent:
            # Headers are done only once they are written: what goes with them may not wait for what comes after.
            self._initial_sent = self._ask(self._with_headers(cygrpc.SendMessageOperation(raw, NO_FLAGS)), tag)
            return self._initial_sent
        return self._ask((cygrpc.SendMessageOperation(raw, _GATHER if waits else NO_FLAGS),), tag)

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
        self._reader = self._loop.create_future()
        return await self._reader

    def _on_received(self, event: Any) -> None:
        reader, self._reader = self._reader, None
        raw = event.batch_operations[0].message()
        if reader is None or reader.done():
            self._kept = (raw,)
        else:
            reader.set_result(raw)


def _flags(*, compressed: bool) -> Any:
    return NO_FLAGS if compressed else cygrpc.WriteFlag.no_compress


grpc.aio.ServicerContext.register(ServerCall)
