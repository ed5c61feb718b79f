"""What the user's own gRPC methods get as their context.

Both kinds behave as grpcio's, but that a status is sent only once the method has really ended and its slots are free:
the trailers can then tell the true load, and they prove that the status came from the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Never

import grpc
import grpc.aio

from replica.calls import Context

Metadata = Sequence[tuple[str, str | bytes]]


class PendingStatus:
    """The status that user code chose for its call: by ``abort``, or by ``set_code`` and a return."""

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


class AsyncUserContext:
    """For asynchronous methods: ``grpc.aio.ServicerContext``, all but what is below being grpcio's own."""

    def __init__(self, context: Context, status: PendingStatus) -> None:
        self._context = context
        self._status = status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Never:
        """Ends the call with a status."""
        self._status.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status."""
        self._status.abort(status.code, status.details, status.trailing_metadata or ())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Sets the trailers of the call."""
        self._status.trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        """The trailers of the call."""
        return self._status.trailers


class SyncUserContext:
    """For methods that run in threads: ``grpc.ServicerContext``."""

    def __init__(self, context: Context, status: PendingStatus, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._status = status
        self._loop = loop
        self._over = False
        self._callbacks: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> Never:
        """Ends the call with a status."""
        self._status.abort(code, details, trailing_metadata)

    def abort_with_status(self, status: grpc.Status) -> Never:
        """Ends the call with a status."""
        self._status.abort(status.code, status.details, status.trailing_metadata or ())

    def cancel(self) -> None:
        """Ends the call as cancelled."""
        self._status.abort(grpc.StatusCode.CANCELLED, "the method cancelled the call", ())

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Sets the trailers of the call."""
        self._status.trailers = tuple(trailing_metadata)

    def trailing_metadata(self) -> Metadata:
        """The trailers of the call."""
        return self._status.trailers

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Sends the headers of the call now."""
        sending = self._context.send_initial_metadata(tuple(initial_metadata))
        asyncio.run_coroutine_threadsafe(sending, self._loop).result()

    def is_active(self) -> bool:
        """Whether the caller still waits."""
        return not self._over

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` once the call is over; False if it is over already."""
        if self._over:
            return False
        self._callbacks.append(callback)
        return True

    def end(self) -> None:
        """The call is over."""
        self._over = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


grpc.aio.ServicerContext.register(AsyncUserContext)
grpc.ServicerContext.register(SyncUserContext)
