"""Server reflection, ``grpc.reflection.v1`` and ``v1alpha``, over a table that may change while it is served.

The two versions are identical on the wire; only the names differ. grpcio has the older only, so the newer is made
from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from grpc_reflection.v1alpha import reflection_pb2

from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.handlers import Context

V1_SERVICE = "grpc.reflection.v1.ServerReflection"
V1ALPHA_SERVICE = "grpc.reflection.v1alpha.ServerReflection"

_Request: TypeAlias = reflection_pb2.ServerReflectionRequest
_Response: TypeAlias = reflection_pb2.ServerReflectionResponse


class ReflectionTable:
    """What reflection tells of: sources of services, each with its own files.

    Sources are kept apart, because two applications may each have a ``service.proto``: an answer is always of one
    source, the first that knows what was asked for.
    """

    def __init__(self) -> None:
        self._sources: dict[str, DescriptorIndex] = {}

    @property
    def services(self) -> tuple[str, ...]:
        """The full names of all services, sorted."""
        return tuple(sorted({name for source in self._sources.values() for name in source.services}))

    def put(self, source: str, index: DescriptorIndex) -> None:
        """Add a source, or replace it in its place."""
        self._sources[source] = index

    def remove(self, source: str) -> None:
        """Forget a source, if there is one of this name."""
        self._sources.pop(source, None)

    def replace(self, sources: Mapping[str, DescriptorIndex], *, keep: str = "") -> None:
        """Put these in the place of all sources but ``keep``, which stays first."""
        kept = {keep: self._sources[keep]} if keep in self._sources else {}
        self._sources = {**kept, **sources}

    def answer(self, request: _Request) -> _Response:
        """The answer to one request of the protocol. Never raises: what is unknown is an error response."""
        response = _Response(valid_host=request.host, original_request=request)
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [reflection_pb2.ServiceResponse(name=name) for name in self.services]
                response.list_services_response.CopyFrom(reflection_pb2.ListServiceResponse(service=services))
            case "file_by_filename":
                self._files(response, lambda source: source.with_name(request.file_by_filename))
            case "file_containing_symbol":
                self._files(response, lambda source: source.with_symbol(request.file_containing_symbol))
            case "file_containing_extension":
                asked = request.file_containing_extension
                self._files(
                    response, lambda source: source.with_extension(asked.containing_type, asked.extension_number)
                )
            case "all_extension_numbers_of_type":
                self._extension_numbers(response, request.all_extension_numbers_of_type)
            case _:
                _fail(response, grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        return response

    def _files(self, response: _Response, find: Callable[[DescriptorIndex], tuple[bytes, ...]]) -> None:
        for source in self._sources.values():
            files = find(source)
            if files:
                response.file_descriptor_response.file_descriptor_proto.extend(files)
                return
        _fail(response, grpc.StatusCode.NOT_FOUND, "no file, symbol or extension of this name is served here")

    def _extension_numbers(self, response: _Response, type_name: str) -> None:
        knowing = [source for source in self._sources.values() if source.has_message(type_name)]
        if not knowing:
            _fail(response, grpc.StatusCode.NOT_FOUND, "no message type of this name is served here")
            return
        numbers = sorted({number for source in knowing for number in source.extension_numbers(type_name)})
        response.all_extension_numbers_response.CopyFrom(
            reflection_pb2.ExtensionNumberResponse(base_type_name=type_name, extension_number=numbers)
        )


class ReflectionServicer:
    """Answers both versions of the protocol from a table."""

    def __init__(self, table: ReflectionTable) -> None:
        self._table = table
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End the streams, which clients may keep open for ever, with UNAVAILABLE."""
        self._closing.set()

    async def ServerReflectionInfo(  # noqa: N802
        self, requests: AsyncIterator[_Request], context: Context
    ) -> AsyncIterator[_Response]:
        """One answer for each request."""
        requests = aiter(requests)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while (request := await _first(anext(requests, None), closing)) is not None:
                yield self._table.answer(request)
        finally:
            closing.cancel()
        if self._closing.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


async def _first(reading: Awaitable[_Request | None], closing: asyncio.Future[Any]) -> _Request | None:
    """What comes first; None for the end of requests and for closing."""
    read = asyncio.ensure_future(reading)
    try:
        await asyncio.wait({read, closing}, return_when=asyncio.FIRST_COMPLETED)
        return read.result() if read.done() else None
    finally:
        read.cancel()


def add_ReflectionServicer_to_server(servicer: ReflectionServicer, server: Any) -> None:  # noqa: N802
    """Register both versions, as generated code would."""
    for service in (V1_SERVICE, V1ALPHA_SERVICE):
        methods = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                servicer.ServerReflectionInfo,
                request_deserializer=_Request.FromString,
                response_serializer=_Response.SerializeToString,
            )
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        server.add_registered_method_handlers(service, methods)


def _fail(response: _Response, code: grpc.StatusCode, message: str) -> None:
    response.error_response.CopyFrom(reflection_pb2.ErrorResponse(error_code=code.value[0], error_message=message))
