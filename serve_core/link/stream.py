"""A link in a bidirectional gRPC call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from serve_core.link.channel import LinkChannel
from serve_core.link.end import Data, LinkEnd
from serve_core.link.frames import BadMetadataError, Frame
from serve_core.link.protobuf import Kind, Message, frames_of, message_of
from serve_core.link.service import LinkService, ServedLink
from serve_core.runtime.served_context import Metadata
from serve_core.v1 import replica_pb2
from serve_core.wire.metadata import LINK_KEY, LINK_VERSION


class _Writes(Protocol):
    @property
    def write(self) -> Callable[[Any], Awaitable[Any]]:
        """Sends a message, and waits until the flow control lets it go."""


class StreamCarrier:
    """Carries a link's batches in one direction of a call, one at a time.

    Args:
        end: The end of the link that sends.
        stream: The call, or its context.
        kind: What its messages are.
        peer: Who is at the other end.
    """

    def __init__(self, end: LinkEnd, stream: _Writes, kind: Kind, peer: str) -> None:
        self.busy = False
        self.attaches = False
        self.peer = peer
        self._end = end
        self._write = stream.write
        self._kind = kind
        self._next: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._closed = False

    def send(self, frames: Sequence[Frame], attached: Sequence[Data] = ()) -> None:
        """Sends a batch."""
        del attached  # There is nothing.
        self.busy = True
        self._next.set_result(message_of(frames, self._kind))

    def close(self) -> None:
        """Ends ``run`` after what was sent."""
        self._closed = True
        if not self._next.done():
            self._next.set_result(None)

    async def run(self) -> None:
        """Sends what there is to send, until it is closed or the call is over."""
        while (batch := await self._next) is not None:
            try:
                await self._write(batch)
            except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
                return  # The call is over: who reads it learns why.
            if self._closed:
                return
            self._next = asyncio.get_running_loop().create_future()
            self.busy = False
            self._end.flush()


async def serve_stream(links: LinkService, context: Any, offer: Metadata = ()) -> None:
    """Serves a link in the call of ``context`` until one of both ends it. ``offer`` goes with its headers."""
    await context.send_initial_metadata(((LINK_KEY, LINK_VERSION), *offer))
    link = links.new(context)
    carrier = StreamCarrier(link.end, context, replica_pb2.LinkResponse, context.peer())
    link.carried_by(carrier)

    async def read() -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            _received(link, message)

    try:
        async with asyncio.TaskGroup() as group:
            reading, writing = group.create_task(read()), group.create_task(carrier.run())
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            writing.cancel()
    finally:
        link.lost("its call is over")


def carry_in_stream(link: LinkChannel, call: Any, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    """Has a call that the replica accepted carry ``link``. The tasks end with the call."""
    link.in_a_call = True
    carrier = StreamCarrier(link.end, call, replica_pb2.LinkRequest, "")
    link.carried_by(carrier)

    async def read() -> None:
        why = "the replica has ended the call that carries the link"
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                _received(link, message)
        except grpc.aio.AioRpcError as error:
            why = error.details() or error.code().name
        finally:
            link.lost(why)

    return [group.create_task(read()), group.create_task(carrier.run())]


def _received(link: LinkChannel | ServedLink, message: Message) -> None:
    try:
        frames = frames_of(message)
    except BadMetadataError:
        link.lost("the other end sent metadata that is none")
        return
    link.received(frames)
