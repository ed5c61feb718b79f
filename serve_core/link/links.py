"""Links to the methods of a server: whether it has them, and where."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from serve_core.link.choice import LinkKind, chosen
from serve_core.link.core.limits import MIN_LIMIT_BYTES
from serve_core.link.service import LinkService
from serve_core.link.stream import serve_stream
from serve_core.link.unix import UnixListener
from serve_core.runtime.channel import message_limit
from serve_core.runtime.served_context import Metadata
from serve_core.runtime.server import Server
from serve_core.wire.metadata import LINK_SECRET_KEY, LINK_SOCKET_KEY


class Offer(NamedTuple):
    """Where a process of this host finds a link, and what it begins with there. Both are empty if there is none."""

    socket: str = ""
    secret: str = ""


class Links:
    """The links to the methods of a server, carried by gRPC, or by a socket of this host.

    Args:
        server: Serves the methods.
        limit_bytes: The largest message.
        kind: What carries them.
        asks: Whether callers that have been silent in a socket are asked if they are still there, as gRPC asks; one that
            does not answer is lost.
    """

    def __init__(self, server: Server, *, limit_bytes: int, kind: LinkKind, asks: bool = False) -> None:
        self._service = LinkService(server.handler, running=server.tasks, limit_bytes=limit_bytes)
        self._listener = UnixListener(self._service, asks=asks) if kind is LinkKind.UNIX else None
        self._starting = asyncio.Lock()
        self._started = False
        server.add_stop_hook(self._service.close)

    async def start(self) -> None:
        """Listens, unless it did before."""
        async with self._starting:
            if self._listener is not None and not self._started:
                self._started = True
                await self._listener.start()

    async def close(self) -> None:
        """Listens no more."""
        async with self._starting:
            self._started = True
            if self._listener is not None:
                await self._listener.close()

    def offer(self) -> Offer:
        """Where the socket is by now."""
        listener = self._listener
        return Offer() if listener is None or not listener.path else Offer(listener.path, listener.secret)

    async def offered(self) -> Offer:
        """The same for who asks; it listens from then on."""
        await self.start()
        return self.offer()

    async def serve(self, context: Any) -> None:
        """Serves a link in the call of ``context``, and tells its caller where one may be carried better."""
        path, secret = self.offer()
        offer: Metadata = ((LINK_SOCKET_KEY, path), (LINK_SECRET_KEY, secret)) if path else ()
        await serve_stream(self._service, context, offer)


def links_of(server: Server, max_message_bytes: int, *, asks: bool = False) -> Links | None:
    """The links that this process has by what was chosen; None if it has none.

    Args:
        server: Serves the methods.
        max_message_bytes: The configured limit of one message.
        asks: See ``Links``.
    """
    limit_bytes = message_limit(max_message_bytes)
    kind = chosen()
    return (
        None
        if kind is LinkKind.OFF or limit_bytes < MIN_LIMIT_BYTES
        else Links(server, limit_bytes=limit_bytes, kind=kind, asks=asks)
    )
