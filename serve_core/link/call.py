"""A call in a link, as its caller has it: what ``grpc.aio`` calls a ``Call``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_core.link.core.incoming import OversizeError
from serve_core.link.core.limits import OVERDUE_S
from serve_core.link.end import LinkEnd
from serve_core.link.flow import Bell, Flow
from serve_core.link.frames import CANCEL, CREDIT, HALF_CLOSE, HEADERS, MESSAGE, Frame, metadata_of
from serve_core.runtime.clock import monotonic
from serve_core.runtime.deadlines import Deadlines
from serve_core.runtime.served_context import Metadata

_OK = 0
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CANCELLED = grpc.StatusCode.CANCELLED.value[0]
_NEVER = float("inf")
_OVER = "Deadline Exceeded"
_GIVEN_UP = "Locally cancelled by application!"


class Owner(Protocol):
    """The link that a call is in."""

    @property
    def end(self) -> LinkEnd:
        """The caller's end of it."""

    @property
    def limit_bytes(self) -> int:
        """The largest message."""

    @property
    def deadlines(self) -> Deadlines:
        """Those of its calls."""

    @property
    def left(self) -> Callable[[int, None], object]:
        """Is called with the number of a call that is over, and None."""


class LinkCall:
    """One call. Its result is awaited, or its messages are read; see ``grpc.aio.UnaryUnaryCall`` and ``StreamStreamCall``.

    Args:
        owner: The link.
        call_id: Its number in that.
        serialize: Makes bytes of a request; None means that they are bytes.
        deserialize: Makes a response of bytes; None means that it is those.
        timeout_s: Seconds to its deadline; None means that it has none.
    """

    __slots__ = (
        "_bell",
        "_callbacks",
        "_cancelled",
        "_code",
        "_deadline",
        "_deserialize",
        "_details",
        "_done_writing",
        "_flow",
        "_headers",
        "_id",
        "_owner",
        "_response",
        "_serialize",
        "_tick",
        "_trailers",
        "_waiter",
        "batch_number",
    )

    def __init__(
        self,
        owner: Owner,
        call_id: int,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        timeout_s: float | None,
    ) -> None:
        self._owner = owner
        self._id = call_id
        self._serialize = serialize
        self._deserialize = deserialize
        self._flow: Flow | None = None
        self._bell: Bell | None = None
        self._callbacks: tuple[Callable[[Any], None], ...] = ()
        self._waiter: asyncio.Future[None] | None = None
        self._code: int | None = None
        self._details = ""
        self._headers: Metadata | None = None
        self._trailers: Metadata = ()
        self._response: bytes | None = None
        self._cancelled = False
        self._done_writing = False
        self.batch_number = 0
        """The batch that it was opened in."""
        self._deadline = _NEVER if timeout_s is None else monotonic() + timeout_s
        self._tick = 0

    # What the caller asks.

    def __await__(self) -> Generator[Any, None, Any]:
        """The response of a call with one."""
        if self._code is None and self._waiter is None:
            self._waiter = self._owner.end.loop.create_future()
            try:
                yield from self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        elif self._code is None:
            yield from self._until_done().__await__()
        return self._result()

    async def read(self) -> Any:
        """The next response of a stream; ``grpc.aio.EOF`` after the last one."""
        flow = self._flow_of()
        try:
            message = await flow.receive()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is not None and not self._cancelled:
            return message if self._deserialize is None else self._deserialize(message)
        self._raise_for_status()
        return grpc.aio.EOF

    @property
    def responses(self) -> Flow:
        """The responses as bytes, for who takes them as they come. Once there are none, ``read`` tells how the call ended."""
        return self._flow_of()

    async def write(self, request: Any) -> None:
        """Sends one request of a stream, and waits until the flow control lets it go."""
        if self._code is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._done_writing:
            raise asyncio.InvalidStateError("RPC is half closed")
        raw = request if self._serialize is None else self._serialize(request)
        try:
            if not await self._flow_of().send(raw):
                self._raise_for_status()
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
        """There will be no more requests."""
        if self._code is None and not self._done_writing:
            self._done_writing = True
            self._flow_of().last(Frame(HALF_CLOSE, self._id))

    def send_whole(self, raw: bytes) -> None:
        """Sends the only request, which does not fit into the opening, in pieces."""
        self._done_writing = True
        flow = self._flow_of()
        flow.put(raw)
        flow.last(Frame(HALF_CLOSE, self._id))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """The headers, once they or the status have come."""
        while self._headers is None and self._code is None:
            await self._rung()
        return grpc.aio.Metadata(*(self._headers or ()))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """The trailers, once the call is over."""
        await self._until_done()
        return grpc.aio.Metadata(*self._trailers)

    def over(self) -> asyncio.Future[None]:
        """Is done once the call is over. Who gives it up does not give up the call; there is one at a time."""
        waiter = self._waiter = self._owner.end.loop.create_future()
        if self._code is not None:
            waiter.set_result(None)
        return waiter

    def result(self) -> Any:
        """The response of a call that is over. Raises as awaiting it does."""
        return self._result()

    @property
    def answer(self) -> bytes | None:
        """The response, as it came, of a call that has ended well: with one that came whole, and no headers. Else None."""
        return self._response if self._code == _OK and not self._headers else None

    @property
    def told(self) -> tuple[Metadata, Metadata]:
        """The headers and the trailers, as they are by now: all of them once the call is over."""
        return self._headers or (), self._trailers

    async def code(self) -> grpc.StatusCode:
        """The code, once the call is over."""
        await self._until_done()
        return self._status_code()

    async def details(self) -> str:
        """The message of the status, once the call is over."""
        await self._until_done()
        return self._details

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls ``callback`` with this once it is over; at once if it is."""
        if self._code is None:
            self._callbacks = (*self._callbacks, callback)
        else:
            callback(self)

    def done(self) -> bool:
        """Whether it is over."""
        return self._code is not None

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._cancelled

    def cancel(self) -> bool:
        """Gives it up; False if it is over."""
        if self._code is not None:
            return False
        self._cancelled = True
        self._give_up(_CANCELLED, _GIVEN_UP)
        return True

    def __aiter__(self) -> LinkCall:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    # What the link tells.

    def on_frame(self, frame: Frame) -> None:
        """A step of it but the last has arrived. Raises as ``Incoming.feed``, but for a message that is too large."""
        step = frame.step
        if step == MESSAGE:
            if self._headers is None:
                self._has_headers(())
            self._feed(frame.data or b"", more=frame.more, message_bytes=frame.message_bytes)
        elif step == HEADERS:
            self._has_headers(metadata_of(frame))
        elif step == CREDIT:
            self._flow_of().grant(frame.credit)

    def finish(self, code: int, details: str, trailers: Metadata = (), last: bytes | None = None) -> None:
        """It is over, after a last message if there is one. Raises as ``on_frame``."""
        if last is not None:
            if self._flow is None:
                self._response = last
            else:
                self._feed(last, more=False)
        if self._code is not None:
            return
        self._code, self._details, self._trailers = code, details, trailers
        owner = self._owner
        owner.left(self._id, None)
        if self._tick:
            owner.deadlines.clear(self._tick, self)
        if self._flow is not None:
            self._flow.over()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._bell is not None:
            self._bell.ring()
        callbacks, self._callbacks = self._callbacks, ()  # What they hold, messages above all, may hold this.
        for callback in callbacks:
            callback(self)

    def lasts(self) -> None:
        """Its deadline matters from now on, if it has one: most calls are over before."""
        if self._deadline < _NEVER and not self._tick:
            self._tick = self._owner.deadlines.set(self._deadline - monotonic() + OVERDUE_S, self)

    def overdue(self) -> None:
        """Its deadline is over."""
        self._give_up(grpc.StatusCode.DEADLINE_EXCEEDED.value[0], _OVER)

    def _has_headers(self, headers: Metadata) -> None:
        self._headers = headers
        self._ring()

    def _feed(self, data: bytes, *, more: bool, message_bytes: int = 0) -> None:
        try:
            self._flow_of().feed(data, more=more, message_bytes=message_bytes)
        except OversizeError:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            self._give_up(code, f"CLIENT: Received message larger than max ({self._owner.limit_bytes})")

    def _flow_of(self) -> Flow:
        if self._flow is None:
            self._flow = Flow(self._owner.end, self._id, self._owner.limit_bytes)
            if self._response is not None:
                self._flow.feed(self._response, more=False)
                self._response = None
            if self._code is not None:
                self._flow.over()
        return self._flow

    def _give_up(self, code: int, details: str) -> None:
        if self._code is None:
            if self._owner.end.open:
                self._owner.end.say(Frame(CANCEL, self._id))
            self.finish(code, details)

    def _result(self) -> Any:
        self._raise_for_status()
        raw = self._response
        if raw is None and self._flow is not None and self._flow.ready:
            raw = self._response = self._flow.take()
        if raw is None:
            raise self._error(grpc.StatusCode.INTERNAL, "the call ended well without an answer")
        return raw if self._deserialize is None else self._deserialize(raw)

    def _raise_for_status(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._code != _OK:
            raise self._error(self._status_code(), self._details)

    def _error(self, code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(*(self._headers or ())), grpc.aio.Metadata(*self._trailers), details
        )

    def _status_code(self) -> grpc.StatusCode:
        return _STATUS_CODES.get(self._code or _OK, grpc.StatusCode.UNKNOWN)

    async def _until_done(self) -> None:
        while self._code is None:
            await self._rung()

    async def _rung(self) -> None:
        if self._bell is None:
            self._bell = Bell()
        try:
            await self._bell.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()
