"""Opens the link to a replica, or to the controller, if it has one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from serve_core.link import unix
from serve_core.link.channel import LinkChannel
from serve_core.link.choice import LinkKind, chosen
from serve_core.link.core.limits import MIN_LIMIT_BYTES
from serve_core.link.stream import carry_in_stream
from serve_core.model.ids import ReplicaId
from serve_core.runtime.channel import message_limit
from serve_core.runtime.log import get_logger
from serve_core.runtime.spare import SpareChannel
from serve_core.v1 import controller_pb2, controller_pb2_grpc, replica_pb2_grpc
from serve_core.wire.metadata import LINK_KEY, LINK_SECRET_KEY, LINK_SOCKET_KEY, LINK_VERSION

_log = get_logger(__name__)


class Linking:
    """Opens links to one replica, one after the other. Says once that there are none, if so.

    Args:
        replica_id: The replica.
        channel: The channel to it, which is put away once a socket carries the link.
        max_message_bytes: The configured limit of one message.
    """

    def __init__(self, replica_id: ReplicaId, channel: SpareChannel, *, max_message_bytes: int) -> None:
        self._replica_id = replica_id
        self._channel = channel
        self._stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
        self._limit_bytes = message_limit(max_message_bytes)
        self._kind = chosen()
        self._wanted = self._kind is not LinkKind.OFF and self._limit_bytes >= MIN_LIMIT_BYTES

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[LinkChannel | None]:
        """A link that lasts as long as the block, if nothing breaks it. None if the replica has none.

        Waits until the replica can be reached.
        """
        if not self._wanted:
            yield None
            return
        call: Any = self._stub.Link(wait_for_ready=True)
        try:
            headers = await call.initial_metadata()
            if not await self._accepted(call, headers):
                yield None
                return
            link = await self._by_socket(headers)
            if link is None:
                async with self._in_stream(call) as link:
                    yield link
                return
        finally:
            call.cancel()
        with contextlib.closing(link):
            await call.code()  # It is over at once, and the channel has no other.
            del call
            await self._channel.put_away()
            yield link

    @asynccontextmanager
    async def _in_stream(self, call: Any) -> AsyncIterator[LinkChannel]:
        """A link that ``call`` carries."""
        async with asyncio.TaskGroup() as group:
            link = self._new()
            carrying = carry_in_stream(link, call, group)
            try:
                yield link
            finally:
                link.close()
                for task in carrying:
                    task.cancel()

    async def _by_socket(self, headers: grpc.aio.Metadata) -> LinkChannel | None:
        """A link in the socket that the replica offers; None if it offers none, or on another host."""
        path, secret = headers.get(LINK_SOCKET_KEY), headers.get(LINK_SECRET_KEY)
        if self._kind is not LinkKind.UNIX or not isinstance(path, str) or not isinstance(secret, str):
            return None
        link = self._new()
        return link if await unix.connect(path, secret, link) else None

    def _new(self) -> LinkChannel:
        return LinkChannel(self._channel, limit_bytes=self._limit_bytes)

    async def _accepted(self, call: Any, headers: grpc.aio.Metadata | None) -> bool:
        if headers is not None and headers.get(LINK_KEY) == LINK_VERSION:
            return True
        # The call ends by itself: with UNIMPLEMENTED, or because the replica was lost again.
        if await call.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._wanted = False
            _log.info("no link to this replica: each call is a gRPC call of its own", replica=self._replica_id)
        return False


@asynccontextmanager
async def link_to_controller(
    channel: SpareChannel, *, max_message_bytes: int, keeps_channel: bool
) -> AsyncIterator[LinkChannel | None]:
    """A link to the controller, in a socket of this host; None if it offers none here. Waits until it can be reached.

    Args:
        channel: The channel to it.
        max_message_bytes: The configured limit of one message.
        keeps_channel: Whether the channel stays while there is a link: its thread reads the sockets that this process serves,
            beside the event loop.
    """
    link = await _offered(channel, message_limit(max_message_bytes)) if chosen() is LinkKind.UNIX else None
    if link is None:
        yield None
        return
    with contextlib.closing(link):
        if not keeps_channel:
            await channel.put_away()
        yield link


async def _offered(channel: SpareChannel, limit_bytes: int) -> LinkChannel | None:
    stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
    try:
        offer = await stub.GetLink(controller_pb2.GetLinkRequest(), wait_for_ready=True)
    except grpc.aio.AioRpcError:
        return None  # It knows of none, or was lost again, which whoever calls it will see.
    if not offer.socket or limit_bytes < MIN_LIMIT_BYTES:
        return None
    link = LinkChannel(channel, limit_bytes=limit_bytes)
    return link if await unix.connect(offer.socket, offer.secret, link) else None
