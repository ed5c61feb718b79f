"""The gRPC entrance for users' own services: takes every call that no service of ours takes.

What a call's metadata asks of the router: ``serve-core-app`` names the application where several serve the service,
``serve-core-slot`` brings a token, ``serve-core-slots`` gives the call's weight, and ``serve-core-compression`` says how
to compress on the way to the replica and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from router.core.queue import patience_s
from router.forward import Router
from router.gate import Gate
from router.observe import OTHER_METHOD, Observer
from router.passthrough import Incoming, Passthrough
from router.relay import COMPRESSION_KEY, COMPRESSIONS, Context, Relay, forwarded
from router.service import QUEUE_TIMEOUT_S
from serve_core.errors import ConfigInvalidError, FieldViolation, MethodUnknownError, ServeError
from serve_core.model.endpoints import DeploymentRoute, TableVersion
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Method, MethodKind
from serve_core.runtime.clock import monotonic
from serve_core.wire.errors import abort
from serve_core.wire.metadata import APP_KEY, REQUEST_ID_KEY, SLOT_KEY, SLOTS_KEY

SLOTS_DIGITS_MAX = 6

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Act = Callable[[Incoming, Relay, Any], Awaitable[Any]]


class Ingress(grpc.GenericRpcHandler):
    """Passes calls through.

    Args:
        router: Knows the services.
        passthrough: Sends calls to replicas.
        gate: Refuses new calls while the router drains.
        observer: Counts calls.
        max_message_bytes: Largest message that passes.
        new_request_id: Names a call that has no name.
    """

    def __init__(
        self,
        router: Router,
        passthrough: Passthrough,
        *,
        gate: Gate,
        observer: Observer,
        max_message_bytes: int,
        new_request_id: Callable[[], str],
    ) -> None:
        self._router = router
        self._passthrough = passthrough
        self._gate = gate
        self._observer = observer
        self._max_message_bytes = max_message_bytes
        self._new_request_id = new_request_id
        self._handlers: dict[tuple[str, str], Handler] = {}
        """By path and application, for the version of the table that ``_handlers_of`` names."""
        self._handlers_of: TableVersion | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a call, by the shape of the method that it names."""
        path = handler_call_details.method
        if not self._gate.opened and not self._gate.closed:
            return self._held(path)
        try:
            self._gate.check()
            return self._handler_of(path, _last_values(handler_call_details.invocation_metadata).get(APP_KEY, ""))
        except ServeError as error:
            return self._refusal(error)

    def _handler_of(self, path: str, application: str) -> Handler:
        """The handler of a method, found once for each version of the table."""
        if self._handlers_of is not self._router.version:
            self._handlers_of = self._router.version
            self._handlers.clear()
        handler = self._handlers.get((path, application))
        if handler is None:
            route, method = self._resolve(path, application)
            handler = self._handlers[path, application] = self._handler(path, route.key, method.kind)
        return handler

    def _resolve(self, path: str, application: str) -> tuple[DeploymentRoute, Method]:
        service, _, name = path.removeprefix("/").partition("/")
        try:
            route = self._router.resolve_service(service, application)
        except MethodUnknownError as error:
            raise self._explained(service, application, error) from None
        methods = next(offered.methods for offered in route.services if offered.name == service)
        method = next((method for method in methods if method.name == name), None)
        if method is None:
            known = ", ".join(sorted(method.name for method in methods))
            raise MethodUnknownError(
                f"service {service} of {route.key} has no method {name}: it has {known}",
                details={"service": service, "method": name, "known": known},
            )
        return route, method

    def _explained(self, service: str, application: str, error: MethodUnknownError) -> ServeError:
        """What to do about a service that has no route, or more than one."""
        routes = self._router.routes()
        serving = {route.key.application for route in routes for offered in route.services if offered.name == service}
        if serving and not application:
            return _invalid(
                APP_KEY, f"service {service} is served by the applications {', '.join(sorted(serving))}: name one"
            )
        if serving:
            return error
        known = ", ".join(sorted({offered.name for route in routes for offered in route.services})) or "none"
        return MethodUnknownError(
            f"no application serves {service}; the services known here: {known}",
            details={"service": service, "known": known},
        )

    def _handler(self, path: str, key: DeploymentKey, kind: MethodKind) -> Handler:
        go = self._passthrough

        async def unary(request: bytes, context: Context) -> bytes:
            answer: bytes = await self._answer(path, key, context, go.unary, request)
            return answer

        async def server_stream(request: bytes, context: Context) -> None:
            await self._answer(path, key, context, go.server_stream, request)

        async def stream(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._answer(path, key, context, go.stream, requests)

        if kind is MethodKind.UNARY:
            return grpc.unary_unary_rpc_method_handler(unary)
        if kind is MethodKind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(server_stream)
        # On the wire, one answer to a stream of requests is a stream with one message.
        return grpc.stream_stream_rpc_method_handler(stream)

    def _held(self, path: str) -> Handler:
        """Serves a call whose shape is not known before there is a table: on the wire, every call is two streams."""

        async def held(requests: AsyncIterator[bytes], context: Context) -> None:
            try:
                await self._gate.passed(context.time_remaining())
                asked = _last_values(context.invocation_metadata())
                route, method = self._resolve(path, asked.get(APP_KEY, ""))
            except ServeError as error:
                await self._refuse(error, context)
                return
            go, key = self._passthrough, route.key
            if method.kind not in (MethodKind.UNARY, MethodKind.SERVER_STREAM):
                await self._answer(path, key, context, go.stream, requests)
                return
            request = await anext(requests)
            if method.kind is MethodKind.SERVER_STREAM:
                await self._answer(path, key, context, go.server_stream, request)
                return
            answer = await self._answer(path, key, context, go.unary, request)
            await context.write(answer)

        return grpc.stream_stream_rpc_method_handler(held)

    async def _answer(self, path: str, key: DeploymentKey, context: Context, act: Act, requests: Any) -> Any:
        asked = _last_values(context.invocation_metadata())
        request_id = asked.get(REQUEST_ID_KEY) or self._new_request_id()
        relay, gate = None, self._gate
        with self._observer.call(path, request_id) as observed:
            try:
                if not gate.takes:
                    await gate.passed(context.time_remaining())
                gate.enter()
                try:
                    incoming = self._incoming(path, key, context, asked, request_id)
                    relay = Relay(
                        context,
                        max_message_bytes=self._max_message_bytes,
                        request_id=request_id,
                        compression=incoming.compression,
                    )
                    return await act(incoming, relay, requests)
                finally:
                    gate.leave()
            except ServeError as error:
                observed.failed(error)
                await abort(context, error, extra_trailers=((REQUEST_ID_KEY, request_id),))
            except grpc.aio.AioRpcError as error:
                observed.failed(error)
                assert relay is not None
                await relay.failure(error)
            except grpc.aio.InternalError:
                # A write to a caller that has gone, a moment before grpcio cancels this task for that reason.
                raise asyncio.CancelledError from None

    def _incoming(
        self, path: str, key: DeploymentKey, context: Context, asked: dict[str, Any], request_id: str
    ) -> Incoming:
        now, remaining_s = monotonic(), context.time_remaining()
        metadata = forwarded(context.invocation_metadata() or ())
        if REQUEST_ID_KEY not in asked:
            metadata.append((REQUEST_ID_KEY, request_id))
        return Incoming(
            path=path,
            key=key,
            metadata=tuple(metadata),
            slot_token=asked.get(SLOT_KEY, ""),
            slots=_slots_of(asked),
            compression=_compression_of(asked),
            deadline=None if remaining_s is None else now + remaining_s,
            wait_until=now + (QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s)),
            max_message_bytes=self._max_message_bytes,
        )

    def _refusal(self, error: ServeError) -> Handler:
        async def refuse(_requests: AsyncIterator[bytes], context: Context) -> None:
            await self._refuse(error, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(self, error: ServeError, context: Context) -> None:
        with self._observer.call(OTHER_METHOD) as observed:
            observed.failed(error)
            await abort(context, error)


def _last_values(metadata: Any) -> dict[str, Any]:
    return dict(metadata or ())


def _compression_of(asked: dict[str, Any]) -> grpc.Compression | None:
    name = asked.get(COMPRESSION_KEY)
    if name is None:
        return None
    if name not in COMPRESSIONS:
        raise _invalid(COMPRESSION_KEY, f"{name!r} is not one of {', '.join(COMPRESSIONS)}")
    return COMPRESSIONS[name]


def _slots_of(asked: dict[str, Any]) -> int:
    text = asked.get(SLOTS_KEY)
    if text is None:
        return 1
    if not (text.isascii() and text.isdecimal() and int(text[:SLOTS_DIGITS_MAX]) > 0 and len(text) <= SLOTS_DIGITS_MAX):
        raise _invalid(SLOTS_KEY, f"{text!r} is not a number of slots above 0")
    return int(text)


def _invalid(field: str, description: str) -> ConfigInvalidError:
    return ConfigInvalidError([FieldViolation(field, description)], what="the request's metadata")
