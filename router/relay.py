"""One call, carried as bytes from a caller to a replica and back: metadata, messages and status as they are.

At most one message waits in each direction: the next is read only once the one before was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn

import grpc
import grpc.aio

from router.limits import check_size
from serve_core.errors import ServeError
from serve_core.link.call import LinkCall
from serve_core.model.load import Load
from serve_core.runtime.core.call import ServerCall
from serve_core.wire import metadata as keys

Context = grpc.aio.ServicerContext[bytes, bytes]
MetadataPair = tuple[str, str | bytes]
Translate = Callable[[grpc.aio.AioRpcError], ServeError | None]

COMPRESSION_KEY = "serve-core-compression"
"""Request metadata: how the router compresses towards the replica and back. grpcio hides what the caller used itself."""

COMPRESSIONS = {
    "identity": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}

_HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    )
)
_PASSED_DESPITE_PREFIX = frozenset(("grpc-trace-bin", "grpc-tags-bin"))
_NOT_FORWARDED = ("serve-core-", ":", "grpc-")
_TOO_LARGE_TEXT = "larger than max"


def parted(metadata: Iterable[MetadataPair]) -> tuple[dict[str, Any], list[MetadataPair]]:
    """What of a caller's metadata asks something of the router, and what a replica may see.

    The first is by key, and of values with the same key the last. The second is all but the transport's keys and ours. The request's
    name is in both.
    """
    asked: dict[str, Any] = {}
    passed: list[MetadataPair] = []
    for key, value in metadata:
        if key in _HOP_BY_HOP or (key.startswith(_NOT_FORWARDED) and key not in _PASSED_DESPITE_PREFIX):
            asked[key] = value
            continue
        if key == keys.REQUEST_ID_KEY:
            asked[key] = value
        passed.append((key, value))  # Not grpcio's own kind of pair: a link takes plain ones as they are.
    return asked, passed


def from_replica(error: grpc.aio.AioRpcError) -> bool:
    """Whether a status was sent by the replica, not made up by the transport."""
    trailers = error.trailing_metadata()
    return trailers is not None and trailers.get(keys.REPLICA_KEY) is not None


def for_caller(trailers: Iterable[MetadataPair] | None, request_id: str) -> tuple[MetadataPair, ...]:
    """A replica's trailers, and the request's name unless it is among them; without the load, which it told the router."""
    return told(trailers, request_id)[1]


def told(trailers: Iterable[MetadataPair] | None, request_id: str) -> tuple[Load | None, tuple[MetadataPair, ...]]:
    """What a replica's trailers tell the router, its load, and what they tell the caller, as ``for_caller``."""
    load, named = None, False
    pairs: list[MetadataPair] = []
    for pair in trailers or ():
        key, value = pair
        if key == keys.LOAD_KEY:
            if load is None and isinstance(value, str):
                load = keys.parse_load(value)
            continue
        named = named or key == keys.REQUEST_ID_KEY
        pairs.append(pair)
    if not named:
        pairs.append((keys.REQUEST_ID_KEY, request_id))
    return load, tuple(pairs)


async def _told(
    call: grpc.aio.UnaryUnaryCall[bytes, bytes] | LinkCall,
) -> tuple[Iterable[MetadataPair], Iterable[MetadataPair]]:
    """The headers and trailers of a call that is over."""
    if isinstance(call, LinkCall):
        return call.told
    return await call.initial_metadata(), await call.trailing_metadata()


def _pairs(metadata: Iterable[MetadataPair] | None) -> tuple[MetadataPair, ...]:
    return () if metadata is None else tuple(metadata)


class Relay:
    """Carries one call between ``context``, the caller's end, and calls to replicas.

    Args:
        context: The caller's end.
        max_message_bytes: Largest message that passes.
        request_id: Echoed in the trailers.
        compression: How answers are compressed; None leaves it to the server.
    """

    def __init__(
        self,
        context: Context,
        *,
        max_message_bytes: int,
        request_id: str,
        compression: grpc.Compression | None = None,
    ) -> None:
        if compression is not None:
            context.set_compression(compression)
        self._context = context
        self._compressing = compression is not None
        self._max_message_bytes = max_message_bytes
        self._request_id = request_id
        self._answered = False
        self.trailers: tuple[MetadataPair, ...] = ()
        """The replica's trailers, once the call has gone well."""

    @property
    def answered(self) -> bool:
        """Whether anything of an answer has reached the caller: from then on nothing may be tried again."""
        return self._answered

    async def unary(self, call: grpc.aio.UnaryUnaryCall[bytes, bytes] | LinkCall) -> bytes:
        """Waits for the one answer of a call.

        Raises:
            grpc.aio.AioRpcError: The call failed.
            MessageTooLargeError: The answer does not pass.
        """
        response: bytes = await call
        check_size(response, self._max_message_bytes, what="response")
        headers, trailers = await _told(call)
        await self._initial(headers)
        await self._headers_before_answer()
        self._end(trailers)
        return response

    async def responses(
        self, call: grpc.aio.UnaryStreamCall[bytes, bytes] | grpc.aio.StreamStreamCall[bytes, bytes] | LinkCall
    ) -> None:
        """Carries the answers of a call back, to its end.

        Raises:
            grpc.aio.AioRpcError: The call failed.
            MessageTooLargeError: An answer does not pass.
        """
        await self._initial(await call.initial_metadata())
        end: object = self._context
        if isinstance(call, LinkCall) and isinstance(end, ServerCall) and not self._compressing:
            await end.send_from(call.responses, self._passes)
        while (message := await call.read()) is not grpc.aio.EOF:
            assert isinstance(message, bytes)
            await self._headers_before_answer()
            self._passes(message)
            await self._context.write(message)
        self._end(await call.trailing_metadata())

    async def both(self, requests: AsyncIterator[bytes], call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        """Carries requests there and answers back, each way at its own pace, until the answers end.

        Raises:
            grpc.aio.AioRpcError: The call failed.
            MessageTooLargeError: A message does not pass.
        """
        try:
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(self._requests(requests, call))
                await self.responses(call)
                pump.cancel()
        except BaseExceptionGroup as raised:
            raise _first(raised) from None

    async def failure(self, error: grpc.aio.AioRpcError) -> NoReturn:
        """Ends the call with a replica's own status: code, message and metadata unchanged."""
        if not self._answered:
            await self._initial(error.initial_metadata())
        trailers = for_caller(error.trailing_metadata(), self._request_id)
        await self._context.abort(error.code(), error.details() or "", trailers)

    async def _requests(self, requests: AsyncIterator[bytes], call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        try:
            async for message in requests:
                check_size(message, self._max_message_bytes, what="request message")
                await call.write(message)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The call is over; reading its answers tells how.
            return

    async def _initial(self, initial: Iterable[MetadataPair] | None) -> None:
        # Empty headers go with what follows them: a call that only fails must look so, or its caller's gRPC core
        # takes it for answered and does not try again.
        if pairs := _pairs(initial):
            self._answered = True
            await self._context.send_initial_metadata(pairs)

    async def _headers_before_answer(self) -> None:
        # grpcio forgets what set_compression said unless headers are sent on their own.
        if self._compressing and not self._answered:
            self._answered = True
            await self._context.send_initial_metadata(())

    def _passes(self, message: bytes) -> None:
        check_size(message, self._max_message_bytes, what="response message")
        self._answered = True

    def _end(self, trailers: Iterable[MetadataPair]) -> None:
        self.trailers = _pairs(trailers)
        self._context.set_trailing_metadata(for_caller(self.trailers, self._request_id))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that ended a relay: our own refusal before the end that it brought about."""
    flat: list[BaseException] = []
    for raised in group.exceptions:
        flat += [_first(raised)] if isinstance(raised, BaseExceptionGroup) else [raised]
    return next((raised for raised in flat if isinstance(raised, ServeError)), flat[0])
