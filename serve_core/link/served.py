"""A call in a link, as the replica's handlers have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_core.link.core.incoming import OversizeError
from serve_core.link.core.limits import CHUNK_BYTES, OVERDUE_S
from serve_core.link.end import LinkEnd
from serve_core.link.flow import Flow
from serve_core.link.frames import HEADERS, STATUS, Frame, checked_message, metadata_fields, metadata_of
from serve_core.runtime import clock, log
from serve_core.runtime.deadlines import Deadlines
from serve_core.runtime.eager import EagerTasks
from serve_core.runtime.served import ServedCall
from serve_core.runtime.served_context import Metadata, number

_NEVER = float("inf")
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]
_log = log.get_logger(__name__)


class Host(Protocol):
    """The replica's end of the link that a call is in."""

    @property
    def end(self) -> LinkEnd:
        """What both ends have."""

    @property
    def limit_bytes(self) -> int:
        """The largest message."""

    @property
    def tasks(self) -> EagerTasks:
        """Run the handlers."""

    @property
    def deadlines(self) -> Deadlines:
        """Those of its calls."""

    @property
    def context(self) -> Any:
        """The context of the connection, for what is known of the caller; None if nothing is."""

    def left(self, call_id: int) -> None:
        """A call is over."""


class LinkedCall(ServedCall):
    """The replica's end of one call in a link. Its answers are never compressed.

    Args:
        host: The link.
        frame: What opened it.
        now: When that arrived, in seconds since the Unix epoch.
    """

    __slots__ = ("_end", "_flow", "_host", "_id", "_listed", "_tick")

    def __init__(self, host: Host, frame: Frame, now: float) -> None:
        timeout_us = frame.timeout_us
        ServedCall.__init__(
            self,
            host.tasks.loop,
            method=frame.method,
            metadata=metadata_of(frame) if frame.binary else frame.metadata,
            deadline=now + timeout_us / 1e6 if timeout_us else _NEVER,
            running=host.tasks.running,
        )
        self._host = host
        self._end = host.end
        self._id = frame.call_id
        self._flow: Flow | None = None
        self._listed = False
        self._tick = 0

    # What the link tells.

    def serve(self, handler: Any, frame: Frame) -> bool:
        """Runs a method handler. ``frame`` opened the call. Says whether the link is to list it, as it is still to be answered.

        Only then its deadline matters: most calls have none to wait for.
        """
        self._begin(handler)
        if handler.request_streaming:
            self._fed(frame)
            self._serve_requests()
        elif frame.half_close:
            self._serve_request(frame.data)
        if self._closed:
            return False
        self._listed = True
        if self._deadline < _NEVER:
            self._tick = self._host.deadlines.set(self._deadline - clock.wall() + OVERDUE_S, self)
        return True

    def on_message(self, frame: Frame) -> None:
        """A message, or a piece of one, has arrived. Raises as ``Incoming.feed``, but for one that is too large."""
        flow = self._flow_of()
        try:
            flow.feed(frame.data or b"", more=frame.more, message_bytes=frame.message_bytes)
        except OversizeError:
            details = f"SERVER: Received message larger than max ({self._host.limit_bytes})"
            self.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
            self.cancel()
            return
        if self._waits_for_request() and flow.ready:
            self._serve_request(flow.take())

    def on_half_close(self) -> None:
        """The caller has sent its last message."""
        self._flow_of().end_input()
        if self._waits_for_request():
            self._serve_request(None)

    def on_credit(self, size: int) -> None:
        """The caller has room for so much more."""
        self._flow_of().grant(size)

    def overdue(self) -> None:
        """Its deadline is over."""
        if self._closed:
            return
        if not self._status_sent:
            self.refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self.cancel()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._leave()
        self._serve_cancelled()

    # The context of the handler, as far as it depends on the link.

    def peer(self) -> str:
        """Who calls."""
        return self._end.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """Who the caller has proved to be."""
        context = self._host.context
        identities: Iterable[bytes] | None = None if context is None else context.peer_identities()
        return identities

    def peer_identity_key(self) -> str | None:
        """The property of the authentication that identifies the caller."""
        context = self._host.context
        key: str | None = None if context is None else context.peer_identity_key()
        return key

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        """What is known of the caller's authentication."""
        context = self._host.context
        known: dict[str, Iterable[bytes]] = {} if context is None else dict(context.auth_context())
        return known

    # What carries the call.

    def _start(self, run: Any) -> None:
        self._task = self._host.tasks.start(run)

    async def _receive(self) -> bytes | None:
        return await self._flow_of().receive()

    async def _send_message(self, raw: bytes, *, compressed: bool) -> None:
        del compressed
        if self._is_gone():
            raise grpc.aio.InternalError("the message could not be sent: the call is over")
        self._initial_sent = True
        if not await self._flow_of().send(raw):
            raise grpc.aio.InternalError("the message could not be sent: the call is over")

    async def _send_headers(self, metadata: Metadata) -> None:
        if self._is_gone():
            raise grpc.aio.InternalError("the headers could not be sent: the call is over")
        texts, binary = metadata_fields(metadata)
        self._end.say(Frame(HEADERS, self._id, None, texts, binary), 64)
        self._initial_sent = True

    def _send_status(self, code: Any, details: str, trailers: Metadata, raw: bytes | None = None) -> None:
        self._status_sent = True
        if self._closed or not self._end.open:
            return
        try:
            texts, binary = metadata_fields(trailers) if trailers else ((), False)
            if raw.__class__ is not bytes and raw is not None:
                checked_message(raw)
            frame = Frame(STATUS, self._id, None, texts, binary)
            if code is not None:
                frame.code = _code_of(code)
            if details:
                frame.message = _text(details)
        except Exception as error:  # noqa: BLE001 - all of these are the handler's
            _log.error("the end of a call could not be sent", code=str(code), exc_info=error)
            message = f"Unexpected {type(error)}: {error}".encode(errors="replace").decode()
            frame, raw = Frame(STATUS, self._id, code=_UNKNOWN, message=message), None
        self._say_status(frame, raw)

    def _say_status(self, frame: Frame, raw: bytes | None) -> None:
        """Ends the call with this, after ``raw`` if there is one."""
        flow, end, size = self._flow, self._end, 64
        if raw is not None:
            size += len(raw)
            if len(raw) <= CHUNK_BYTES and not end.crowded and (flow is None or not flow.waiting):
                frame.data = raw
            else:
                flow = self._flow_of()
                flow.put(raw)
        if flow is None:
            end.say(frame, size)
            self._closed = True
            if self._listed:
                self._leave()
        else:
            flow.last(frame, size)

    def _is_gone(self) -> bool:
        return self._closed or not self._end.open

    # The life of the call.

    def _fed(self, frame: Frame) -> None:
        flow = self._flow_of()
        if frame.half_close:
            if frame.data is not None:
                flow.feed(frame.data, more=False)
            flow.end_input()

    def _waits_for_request(self) -> bool:
        handler = self._handler
        return handler is not None and not handler.request_streaming and self._task is None and not self._status_sent

    def _is_unread(self) -> bool:
        return False  # Its caller hears of the status, whatever it has written meanwhile.

    def _leave(self) -> None:
        self._closed = True
        if self._flow is not None:
            self._flow.over()
        if self._listed:
            host = self._host
            if self._tick:
                host.deadlines.clear(self._tick, self)
            host.left(self._id)

    def _flow_of(self) -> Flow:
        if self._flow is None:
            self._flow = Flow(self._end, self._id, self._host.limit_bytes, self._leave)
        return self._flow


def _code_of(code: Any) -> int:
    """A code as a frame has it. Raises ValueError if it is none that can be sent."""
    sent = int(number(code))
    if not 0 <= sent < 1 << 32:
        raise ValueError(f"{code} is no status code")
    return sent


def _text(details: Any) -> str:
    """The message of a status as a frame has it. Raises if it is no text that can be sent."""
    text: str = details.decode() if isinstance(details, bytes) else details
    text.encode()
    return text


grpc.aio.ServicerContext.register(LinkedCall)
