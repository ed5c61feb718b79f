"""What the user's own gRPC methods get as their context.

Both kinds behave as grpcio's, but that a status is sent only once the method has really ended and its slots are free:
the trailers can then tell the true load, and they prove that the status came from the replica.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Never

import grpc
import grpc.aio

from replica.calls import Context
from serve_core.runtime import log

Metadata = Sequence[tuple[str, str | bytes]]

_log = log.get_logger(__name__)


class PendingStatus:
    """The status that user code chose for its call: by ``abort``, or by ``set_code`` and a return."""

    __slots__ = ("aborted", "trailers")

    def __init__(self) -> None:
        self.aborted: tuple[grpc.StatusCode, str] | None = None
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()

    def abort(self, code: Any, details: str, trailers: Metadata) -> Never:
        """Remembers the status, the first one for good, and ends the user's method."""
        if code == grpc.StatusCode.OK or not isinstance(code, grpc.StatusCode):
            code, details = grpc.StatusCode.UNKNOWN, details or "abort() was called with the code OK"
        if self.aborted is None:
            self.aborted = (code, details)
            self.trailers = (*self.trailers, *tuple(trailers))
        raise grpc.aio.AbortError("the method aborted")


class _UserContext:
    """What both kinds have in common. All but this is grpcio's own."""

    __slots__ = ("_context", "_status")

    def __init__(self, context: Context, status: PendingStatus) -> None:
        self._context = context
        self._status = status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Sets the trailers of the call."""
        self._status.trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        """The trailers of the call."""
        return self._status.trailers

    def code(self) -> Any:
        """The code that the method chose; None if it chose none."""
        return self._context.code() if self._status.aborted is None else self._status.aborted[0]

    def details(self) -> Any:
        """The message that the method chose."""
        return self._context.details() if self._status.aborted is None else self._status.aborted[1]


class AsyncUserContext(_UserContext):
    """For asynchronous methods: ``grpc.aio.ServicerContext``."""

    __slots__ = ()

    def end(self) -> None:
        """The call is over: there is nobody to tell."""

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Never:
        """Ends the call with a status."""
        self._status.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status."""
        self._status.abort(status.code, status.details, status.trailing_metadata or ())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls ``callback`` with this once the call is over."""
        context: Any = self._context
        context.add_done_callback(lambda _: callback(self))


class SyncUserContext(_UserContext):
    """For methods that run in threads: ``grpc.ServicerContext``."""

    __slots__ = ("_callbacks", "_lock", "_loop", "_over")

    def __init__(self, context: Context, status: PendingStatus, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(context, status)
        self._loop = loop
        self._lock = threading.Lock()
        self._over = False
        self._callbacks: list[Callable[[], None]] = []

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Never:
        """Ends the call with a status."""
        self._status.abort(code, details, trailing_metadata)

    def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status."""
        self._status.abort(status.code, status.details, status.trailing_metadata or ())

    def cancel(self) -> None:
        """Ends the call as cancelled."""
        self._status.abort(grpc.StatusCode.CANCELLED, "the method cancelled the call", ())

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the headers of the call now."""
        sending = self._context.send_initial_metadata(tuple(initial_metadata))
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def is_active(self) -> bool:
        """Whether the caller still waits."""
        return not self._over

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` once the call is over; False if it is over already."""
        with self._lock:
            if not self._over:
                self._callbacks.append(callback)
            return not self._over

    def end(self) -> None:
        """The call is over."""
        with self._lock:
            self._over = True
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - user code
                _log.exception("a callback at the end of a call failed")
        self._callbacks.clear()


grpc.aio.ServicerContext.register(AsyncUserContext)
grpc.ServicerContext.register(SyncUserContext)
