"""One call at a server, from its request to its status, whatever carries it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from serve_core.errors import ServeError
from serve_core.runtime import clock, log
from serve_core.runtime.direct import DirectHandler
from serve_core.runtime.guarded import GuardedHandler
from serve_core.runtime.served_context import END_OF_TIME, OK, Metadata, ServedContext, number

_log = log.get_logger(__name__)


class ServedCall(ServedContext):
    """A call: runs its handler, of which it is the context, and makes a status of whatever comes of it.

    Args:
        loop: The event loop.
        method: ``/package.Service/Method``.
        metadata: The headers that the caller sent.
        deadline: Seconds since the Unix epoch; infinity if there is none.
        running: Holds the task that runs the handler, as long as it runs.
    """

    __slots__ = ("_loop", "_on_gone", "_running", "_task")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        method: str,
        metadata: Metadata,
        deadline: float,
        running: set[asyncio.Task[Any]],
    ) -> None:
        ServedContext.__init__(self, method=method, metadata=metadata, deadline=deadline)
        self._loop = loop
        self._running = running
        self._task: asyncio.Task[None] | None = None
        self._on_gone: Callable[[], None] | None = None

    # What the server asks.

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """Ends a call that nothing was run for."""
        self._send_status(code, details, ())

    def serve_found(self, find: Callable[[ServedCall], Any]) -> None:
        """Runs a handler that is still to be found by what may wait: interceptors.

        ``find`` is awaited in the task that runs the handler; None means that there is no such method.
        """
        self._start(self._guard(self._find_and_respond, find))

    # What a direct handler asks.

    def wait(self, on_gone: Callable[[], None]) -> None:
        """The call ends later, by ``answer`` or ``go_on``. ``on_gone`` is called if nobody waits for it any more before."""
        self._on_gone = on_gone

    def answer(self, raw: bytes, trailers: Metadata) -> None:
        """Ends the call well."""
        self._on_gone = None
        self._send_status(None, "", trailers, raw)
        if self._callbacks is not None:
            self._over()

    def go_on(self, answering: Awaitable[bytes]) -> None:
        """Goes on in a task, as a handler that is a coroutine."""
        self._on_gone = None
        self._start(self._guard(self._answer_with, answering))

    def fail(self, error: Exception) -> None:
        """Ends the call as one whose handler raised."""
        self._on_gone = None
        self._fail(error)
        self._over()

    # The life of the call.

    def _begin(self, handler: Any) -> None:
        self._handler = handler
        self._deserialize = handler.request_deserializer
        self._serialize = handler.response_serializer

    def _start(self, run: Any) -> None:
        task = self._task = self._loop.create_task(run)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _serve_request(self, raw: bytes | None) -> None:
        """Runs the handler with the one request of a call; None means that the caller has ended without one."""
        if self._closed:
            return  # There was nobody any more to run it for.
        if self._deadline < END_OF_TIME and self._deadline <= clock.wall():
            self._send_status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
            return
        if raw is None:
            self._refuse_without_request()
            return
        handler = self._handler
        if type(handler) is DirectHandler:
            self._serve_directly(handler, raw)
            return
        if type(handler) is GuardedHandler:
            self._start(self._guard_ours(handler, raw))
            return
        try:
            request = raw if self._deserialize is None else self._deserialize(raw)
        except Exception as error:  # noqa: BLE001 - the deserializer is the user's
            self._fail(error)
            return
        if handler.unary_unary is not None:
            self._start(self._guard_unary(handler.unary_unary, request))
        else:
            self._start(self._guard(self._respond, request))

    def _serve_directly(self, handler: DirectHandler, request: bytes) -> None:
        try:
            handler.begin(request, self)
        except Exception as error:  # noqa: BLE001 - as any handler's
            self.fail(error)
        if self._on_gone is not None:
            self._last()

    def _last(self) -> None:
        """The call lasts: ``_serve_cancelled`` is to be called if nobody waits for it any more. For those who are not told anyway."""

    def _serve_requests(self) -> None:
        """Runs the handler with a stream of requests."""
        self._start(self._guard(self._respond, _Requests(self)))

    def _serve_cancelled(self) -> None:
        """The caller is gone, or its deadline over."""
        self._cancelled = True
        if self._on_gone is not None:
            on_gone, self._on_gone = self._on_gone, None
            on_gone()
            self._over()
        elif self._task is not None and not self._task.done():
            self._task.cancel()

    def _refuse_without_request(self) -> None:
        self._send_status(grpc.StatusCode.UNIMPLEMENTED, f'"{self.method}" requires exactly one request message.', ())

    async def _find_and_respond(self, find: Callable[[ServedCall], Any]) -> None:
        handler = await find(self)
        if handler is None:
            await self.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        self._begin(handler)
        if handler.request_streaming:
            await self._respond(_Requests(self))
            return
        raw = await self._receive()
        if raw is None:
            self._refuse_without_request()
            return
        await self._respond(raw if self._deserialize is None else self._deserialize(raw))

    async def _guard(self, respond: Callable[[Any], Any], what: Any) -> None:
        """Makes a status of whatever comes of it."""
        try:
            await respond(what)
        except BaseException as error:
            if not self._ends_with(error):
                raise
        finally:
            self._task = None  # Its context may hold this call: a cycle would have the garbage collector work for each.
            self._over()

    async def _guard_unary(self, behavior: Callable[[Any, Any], Any], request: Any) -> None:
        """As ``_guard``, for a call with one request and one answer: most are, and each coroutine costs them."""
        try:
            self._answer(await behavior(request, self))
        except BaseException as error:
            if not self._ends_with(error):
                raise
        finally:
            self._task = None
            if self._callbacks is not None:
                self._over()

    async def _guard_ours(self, handler: GuardedHandler, raw: bytes) -> None:
        """As ``_guard_unary``, for a handler that is guarded: here it is guarded, too."""
        try:
            try:
                response = await handler.plain(handler.parse(raw), self)
            except ServeError as error:
                await handler.abort(self, error)
            self._answer(response)
        except BaseException as error:
            if not self._ends_with(error):
                raise
        finally:
            self._task = None
            if self._callbacks is not None:
                self._over()

    def _ends_with(self, error: BaseException) -> bool:
        """Makes a status of what the handler raised; False if that is no business of a call's."""
        if isinstance(error, grpc.aio.AbortError):
            return True
        if isinstance(error, asyncio.CancelledError):
            if not self._status_sent:
                self._send_status(grpc.StatusCode.CANCELLED, "the handler was cancelled", self._trailers)
            return True
        if isinstance(error, Exception):
            self._fail(error)
            return True
        return False

    async def _respond(self, request: Any) -> None:
        handler = self._handler
        if handler.response_streaming:
            await self._respond_with_stream(handler, request)
            return
        behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary
        self._answer(await behavior(request, self))

    async def _answer_with(self, answering: Awaitable[Any]) -> None:
        self._answer(await answering)

    def _answer(self, response: Any) -> None:
        """Ends the call as its handler has left it, with the one response that it returned."""
        if self._status_sent:
            return
        if self._code is not None and number(self._code) != OK:  # Then there is no answer, whatever was returned.
            self._send_status(self._code, self._details, self._trailers)
            return
        raw = response if self._serialize is None else self._serialize(response)
        self._send_status(self._code, self._details, self._trailers, raw)

    async def _respond_with_stream(self, handler: Any, request: Any) -> None:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
        responses = behavior(request, self)
        if inspect.isasyncgen(responses):
            async with contextlib.aclosing(responses):
                async for response in responses:
                    await self.write(response)
        else:
            await responses
        if not self._status_sent:
            self._send_status(self._code, self._details, self._trailers)

    def _fail(self, error: Exception) -> None:
        if self._status_sent or self._is_gone():
            return
        _log.error("a handler raised", method=self.method, exc_info=error)
        code = self._code if isinstance(self._code, grpc.StatusCode) and self._code.value[0] else None
        unknown = grpc.StatusCode.UNKNOWN if code is None else code
        self._send_status(unknown, f"Unexpected {type(error)}: {error}", self._trailers)

    def _over(self) -> None:
        if self._callbacks is None:
            return
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - user code
                _log.exception("a callback at the end of a call failed", method=self.method)


class _Requests(AsyncIterator[Any]):
    """The requests of a stream, for a handler that iterates."""

    __slots__ = ("_call",)

    def __init__(self, call: ServedContext) -> None:
        self._call = call

    async def __anext__(self) -> Any:
        request = await self._call.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request
