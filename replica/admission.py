"""Puts slots before the user's own gRPC methods, of every kind, asynchronous or not."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio

from replica.calls import Calls, Claim, Context
from replica.desk import Occupancy, SlotDesk
from replica.methods import is_async
from replica.service import Aborter, own_trailers
from replica.threads import ThreadItems, ThreadRunner
from replica.user_context import AsyncUserContext, PendingStatus, SyncUserContext
from serve_core.errors import ApplicationError, Code, ConfigInvalidError, FieldViolation, ServeError
from serve_core.model.ids import OwnerId
from serve_core.runtime.handlers import MethodHandler, guard
from serve_core.wire.metadata import INCARNATION_KEY, OWNER_KEY, REQUEST_ID_KEY, SLOT_KEY, SLOTS_KEY

_MAX_SLOTS = 2**32 - 1


class _UserMethod(NamedTuple):
    path: str
    function: Any
    asynchronous: bool


class UserServices(grpc.GenericRpcHandler):
    """Serves the user's methods once they are known; until then there are none.

    Args:
        desk: The slots.
        calls: Admits the calls.
        threads: Where methods run that are not asynchronous.
        abort: Ends calls with errors of ours.
    """

    def __init__(self, *, desk: SlotDesk, calls: Calls, threads: ThreadRunner, abort: Aborter) -> None:
        self._desk = desk
        self._calls = calls
        self._threads = threads
        self._abort = abort
        self._handlers: dict[str, MethodHandler] = {}

    def serve(self, handlers: Mapping[str, MethodHandler]) -> None:
        """Serves these methods, by ``/service/method``, from now on."""
        self._handlers = {path: self._admitted(path, handler) for path, handler in handlers.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> MethodHandler | None:
        """Called by gRPC for each call."""
        return self._handlers.get(handler_call_details.method)

    def _admitted(self, path: str, handler: MethodHandler) -> MethodHandler:
        function: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        method = _UserMethod(path, function, is_async(function))
        if handler.response_streaming:
            run = self._run_stream
        else:
            run = self._run_async if method.asynchronous else self._run_in_thread
        make = _FACTORIES[handler.request_streaming, handler.response_streaming]
        admitted = make(
            partial(self._serve, method, run),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return guard(admitted, self._abort)

    async def _serve(self, method: _UserMethod, run: Any, request: Any, context: Context) -> Any:
        asked = context.invocation_metadata() or ()
        metadata = {key: value for key, value in asked if isinstance(value, str)}
        if INCARNATION_KEY in metadata:
            self._calls.require_meant(asked)
        self._desk.require_open()
        status = PendingStatus()
        user_context = _user_context(method, context, status)
        response = None
        try:
            slots, token = _slots(metadata.get(SLOTS_KEY, "1")), metadata.get(SLOT_KEY, "")
            owner, line = metadata.get(OWNER_KEY), self._calls.line
            owner_id = OwnerId(owner) if owner else None
            if line is None:
                occupancy = self._desk.admit(token=token, slots=slots, owner=owner_id)
            else:
                occupancy = await line(Claim(token, slots, owner_id))
            request_id = metadata.get(REQUEST_ID_KEY, "")
            with self._calls.inside(occupancy, context, method=method.path, request_id=request_id):
                try:
                    response = await run(method, request, context, user_context, occupancy)
                except (grpc.aio.AbortError, GeneratorExit):
                    raise
                except BaseException as error:
                    raise _with_code(self._calls.user_error(error), context) from error
                if status.aborted or context.code():
                    occupancy.finish(ok=False)
        except grpc.aio.AbortError:
            if status.aborted is None:
                raise
        except ServeError:
            context.set_trailing_metadata(status.trailers)
            raise
        finally:
            user_context.end()
        # Not for those who know nothing of slots, when all went well: metadata costs as much as a small message.
        asked_of_slots = OWNER_KEY in metadata or SLOT_KEY in metadata or status.aborted or context.code()
        trailers = (*status.trailers, *own_trailers(self._desk)) if asked_of_slots else status.trailers
        if status.aborted is not None:
            await context.abort(*status.aborted, trailers)
        context.set_trailing_metadata(trailers)
        return response

    def _run_async(
        self, method: _UserMethod, request: Any, context: Context, user_context: Any, occupancy: Occupancy
    ) -> Any:
        del context, occupancy
        return method.function(request, user_context)

    async def _run_in_thread(
        self, method: _UserMethod, request: Any, context: Context, user_context: Any, occupancy: Occupancy
    ) -> Any:
        del context
        function = method.function
        with _feed(request, method) as fed:
            return await self._threads.run(lambda: function(fed, user_context), occupancy)

    async def _run_stream(
        self, method: _UserMethod, request: Any, context: Context, user_context: Any, occupancy: Occupancy
    ) -> None:
        function = method.function
        with _feed(request, method) as fed:
            if not method.asynchronous:
                responses = self._threads.iterate(lambda: function(fed, user_context), occupancy)
            elif inspect.isasyncgenfunction(getattr(function, "__func__", function)):
                responses = function(fed, user_context)
            else:  # a coroutine that writes by itself
                await function(fed, user_context)
                return
            async with contextlib.aclosing(responses):  # type: ignore[type-var]
                async for response in responses:
                    await context.write(response)


_FACTORIES: Mapping[tuple[bool, bool], Callable[..., MethodHandler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _user_context(method: _UserMethod, context: Context, status: PendingStatus) -> AsyncUserContext | SyncUserContext:
    if method.asynchronous:
        return AsyncUserContext(context, status)
    return SyncUserContext(context, status, asyncio.get_running_loop())


def _feed(request: Any, method: _UserMethod) -> AbstractContextManager[Any]:
    """The request, or the stream of them in the form that the method reads."""
    if not method.asynchronous and isinstance(request, AsyncIterator):
        return contextlib.closing(ThreadItems(request, asyncio.get_running_loop()))
    return contextlib.nullcontext(request)


def _with_code(error: ApplicationError, context: Context) -> ApplicationError:
    """The error with the status code that the method set before it raised, as grpcio has it."""
    code: Any = context.code()
    if not code:
        return error
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return ApplicationError(
        str(context.details() or error.message),
        code=Code(_CODE_NAMES.get(number, Code.UNKNOWN)),
        details=error.details,
        remote_type=error.remote_type,
        remote_traceback=error.remote_traceback,
        replica_id=error.replica_id,
    )


_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _slots(text: str) -> int:
    if text == "1":
        return 1
    if not (text.isascii() and text.isdigit() and 0 < int(text[:11]) <= _MAX_SLOTS):
        violation = FieldViolation(SLOTS_KEY, f"{text[:40]!r} is no number of slots")
        raise ConfigInvalidError((violation,), what="the metadata")
    return int(text)
