"""The gRPC door for users' own services: takes every call that no service of ours takes.

What a call's metadata asks of the router: ``serve-core-app`` names the application where several serve the service,
``serve-core-slot`` brings a token, ``serve-core-slots`` gives the call's weight, and ``serve-core-compression`` says how
to compress on the way to the replica and back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from router.forward import Router
from router.observe import OTHER_METHOD
from router.passage import Door, Passage, invalid
from router.relay import Context
from serve_core.errors import MethodUnknownError, ServeError
from serve_core.model.endpoints import DeploymentRoute, TableVersion
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Method, MethodKind
from serve_core.runtime.direct import DirectHandler
from serve_core.runtime.method_table import Finder
from serve_core.runtime.served_context import Metadata
from serve_core.wire.errors import abort
from serve_core.wire.metadata import APP_KEY

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class Ingress(Finder):
    """Passes calls through.

    Args:
        router: Knows the services.
        door: What calls pass.
    """

    def __init__(self, router: Router, door: Door) -> None:
        self._router = router
        self._door = door
        self._gate = door.gate
        self._observer = door.observer
        self._handlers: dict[tuple[str, str], Handler] = {}
        """By path and application, for the version of the table that ``_handlers_of`` names."""
        self._handlers_of: TableVersion | None = None

    def find(self, method: str, metadata: Metadata) -> Handler:
        """The handler of a call, by the shape of the method that it names."""
        gate = self._gate
        try:
            if not gate.takes:
                if not gate.closed:
                    return self._held(method)
                gate.check()
            return self._handler_of(method, _application_in(metadata))
        except ServeError as error:
            return self._refusal(error)

    def _handler_of(self, path: str, application: str) -> Handler:
        """The handler of a method, found once for each version of the table."""
        version = self._router.version
        if self._handlers_of is not version:
            self._handlers_of = version
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
            return invalid(
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
        door = self._door
        go = door.passthrough

        async def unary(request: bytes, context: Context) -> bytes:
            answer: bytes = await Passage(door, path, key, context).answer(go.unary, request)
            return answer

        def begin(request: bytes, call: Any) -> None:
            Passage(door, path, key, call).begin(request, call)

        async def server_stream(request: bytes, context: Context) -> None:
            await Passage(door, path, key, context).answer(go.server_stream, request)

        async def stream(requests: AsyncIterator[bytes], context: Context) -> None:
            await Passage(door, path, key, context).answer(go.stream, requests)

        if kind is MethodKind.UNARY:
            return DirectHandler(unary, begin)
        if kind is MethodKind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(server_stream)
        # On the wire, one answer to a stream of requests is a stream with one message.
        return grpc.stream_stream_rpc_method_handler(stream)

    def _held(self, path: str) -> Handler:
        """Serves a call whose shape is not known before there is a table: on the wire, every call is two streams."""

        async def held(requests: AsyncIterator[bytes], context: Context) -> None:
            try:
                await self._gate.passed(context.time_remaining())
                route, method = self._resolve(path, _application_in(context.invocation_metadata()))
            except ServeError as error:
                await self._refuse(error, context)
                return
            go, passage = self._door.passthrough, Passage(self._door, path, route.key, context)
            if method.kind not in (MethodKind.UNARY, MethodKind.SERVER_STREAM):
                await passage.answer(go.stream, requests)
                return
            request = await anext(requests)
            if method.kind is MethodKind.SERVER_STREAM:
                await passage.answer(go.server_stream, request)
                return
            await context.write(await passage.answer(go.unary, request))

        return grpc.stream_stream_rpc_method_handler(held)

    def _refusal(self, error: ServeError) -> Handler:
        async def refuse(_requests: AsyncIterator[bytes], context: Context) -> None:
            await self._refuse(error, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(self, error: ServeError, context: Context) -> None:
        with self._observer.call(OTHER_METHOD) as observed:
            observed.failed(error)
            await abort(context, error)


def _application_in(metadata: Any) -> str:
    """The application that metadata names; of several, the last."""
    named = ""
    for key, value in metadata or ():
        if key == APP_KEY:
            named = value
    return named
