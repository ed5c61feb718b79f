"""The HTTP entrance: JSON in, JSON or server-sent events out."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

import grpc.aio
from aiohttp import web

from router.gate import Gate
from router.http_errors import CallError, body_of, headers_of, status_of
from router.limits import too_large
from router.observe import Observer
from serve_core.errors import ConfigInvalidError, FieldViolation, MethodUnknownError, ServeError
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Method, MethodKind

REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-request-timeout-s"
SLOT_HEADER = "serve-core-slot"
EVENT_STREAM = "text/event-stream"
DEFAULT_METHOD = "__call__"
TIMEOUT_S_MAX = 30 * 24 * 3600.0

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Caller(Protocol):
    """What the HTTP entrance needs of a router."""

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        """The route of a deployment; the application's ingress when ``deployment`` is empty."""

    async def call(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
        slot_token: str = "",
    ) -> Payload:
        """Calls a method with one answer."""

    def stream(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        timeout_s: float | None,
        request_id: str = "",
        slot_token: str = "",
    ) -> AsyncIterator[Payload]:
        """Calls a method that streams its answers."""


class HttpEntrance:
    """Turns HTTP requests into calls.

    Args:
        caller: Makes the calls.
        gate: Refuses new requests while the router drains.
        observer: Counts calls.
        max_message_bytes: Largest body.
        new_request_id: Gives a request its id when it brings none.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        gate: Gate,
        observer: Observer,
        max_message_bytes: int,
        new_request_id: Callable[[], str],
    ) -> None:
        self._caller = caller
        self._gate = gate
        self._observer = observer
        self._max_message_bytes = max_message_bytes
        self._new_request_id = new_request_id

    def add_routes(self, app: web.Application) -> None:
        """Adds the entrance's routes."""
        app.router.add_post("/{application}", self.handle)
        app.router.add_post("/{application}/{method}", self.handle)
        app.router.add_post("/{application}/{deployment}/{method}", self.handle)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one call. Every answer carries the request's id."""
        request_id = _request_id_of(request, self._new_request_id)
        with self._observer.call(request_id=request_id) as observed:
            try:
                async with self._gate.entered(_timeout_of(request)):
                    return await self._call(request, request_id, observed.named)
            except (ServeError, grpc.aio.AioRpcError) as error:
                observed.failed(error)
                return error_response(error, request_id)

    async def _call(self, request: web.Request, request_id: str, named: Callable[[str], None]) -> web.StreamResponse:
        application = request.match_info["application"]
        deployment = request.match_info.get("deployment", "")
        route = self._caller.resolve(application, deployment)
        method = _method_of(route, request.match_info.get("method", DEFAULT_METHOD))
        named(f"/{route.key}/{method.name}")
        timeout_s = _timeout_of(request)
        slot_token = request.headers.get(SLOT_HEADER, "")
        arguments = Payload(Encoding.JSON, await self._body(request))
        if method.kind is MethodKind.SERVER_STREAM:
            items = self._caller.stream(
                *route.key, method.name, arguments, timeout_s=timeout_s, request_id=request_id, slot_token=slot_token
            )
            return await send_events(request, items, request_id)
        result = self._caller.call(
            *route.key, method.name, arguments, timeout_s=timeout_s, request_id=request_id, slot_token=slot_token
        )
        if EVENT_STREAM in request.headers.get("accept", ""):
            return await send_events(request, _only(result), request_id)
        return _response_of(await result, request_id)

    async def _body(self, request: web.Request) -> bytes:
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large("request", self._max_message_bytes, str(request.content_length or "")) from None


def error_response(error: CallError, request_id: str) -> web.Response:
    """An error as an HTTP response."""
    return web.Response(
        status=status_of(error),
        body=body_of(error),
        content_type="application/json",
        headers={REQUEST_ID_HEADER: request_id, **headers_of(error)},
    )


async def send_events(request: web.Request, items: AsyncIterator[Payload], request_id: str) -> web.StreamResponse:
    """Sends answers as server-sent events as they come, then ``event: end``, or ``event: error`` with the error.

    Raises:
        ServeError: Before the first answer: nothing was sent yet.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": EVENT_STREAM,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            REQUEST_ID_HEADER: request_id,
        }
    )
    async with aclosing(_closing(items)) as answers:
        first = await anext(answers, None)
        await response.prepare(request)
        try:
            if first is not None:
                await response.write(_event(first))
                async for item in answers:
                    await response.write(_event(item))
            await response.write(b"event: end\ndata:\n\n")
        except (ServeError, grpc.aio.AioRpcError) as error:
            await response.write(b"event: error\ndata: " + body_of(error) + b"\n\n")
    await response.write_eof()
    return response


async def _closing(items: AsyncIterator[Payload]) -> AsyncGenerator[Payload, None]:
    """The same items. Closing this ends the call that they come from, at once."""
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _only(result: Awaitable[Payload]) -> AsyncIterator[Payload]:
    yield await result


def _event(item: Payload) -> bytes:
    lines = _json_of(item).splitlines() or [b""]
    return b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def _json_of(item: Payload) -> bytes:
    """An answer as JSON text; a protobuf message, which JSON callers cannot read, goes inside as it is."""
    if item.encoding is Encoding.JSON:
        return item.data
    return json.dumps({"typeName": item.type_name, "base64": base64.b64encode(item.data).decode()}).encode()


def _response_of(result: Payload, request_id: str) -> web.Response:
    content_type = "application/json" if result.encoding is Encoding.JSON else "application/x-protobuf"
    headers = {REQUEST_ID_HEADER: request_id}
    if result.type_name:
        headers["serve-core-message-type"] = result.type_name
    return web.Response(body=result.data, content_type=content_type, headers=headers)


def _method_of(route: DeploymentRoute, name: str) -> Method:
    """The method that a request names. Before the deployment told its methods, any name may be one.

    Raises:
        MethodUnknownError: The deployment has no such method, or one that HTTP cannot carry.
    """
    if not route.methods:
        return Method(name, MethodKind.UNARY)
    found = next((method for method in route.methods if method.name == name), None)
    details = {"application": route.key.application, "deployment": route.key.deployment, "method": name}
    if found is None:
        known = ", ".join(sorted(method.name for method in route.methods))
        raise MethodUnknownError(
            f"deployment {route.key} has no method {name}: it has {known}", details={**details, "known": known}
        )
    if found.kind in (MethodKind.CLIENT_STREAM, MethodKind.BIDI_STREAM):
        raise MethodUnknownError(
            f"method {name} of {route.key} takes a stream of requests, which HTTP does not carry: call it over gRPC",
            details=details,
        )
    return found


def _request_id_of(request: web.Request, new_request_id: Callable[[], str]) -> str:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()


def _timeout_of(request: web.Request) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= TIMEOUT_S_MAX:
        violation = FieldViolation(TIMEOUT_HEADER, f"{text!r} is not a number of seconds above 0")
        raise ConfigInvalidError([violation], what="the request")
    return timeout_s
