"""Links to a replica: whether it has them, and where."""

from __future__ import annotations

from typing import Any

from serve_core.link.choice import LinkKind, chosen
from serve_core.link.core.limits import MIN_LIMIT_BYTES
from serve_core.link.service import LinkService
from serve_core.link.stream import serve_stream
from serve_core.link.unix import UnixListener
from serve_core.runtime.channel import message_limit
from serve_core.runtime.served_context import Metadata
from serve_core.runtime.server import Server
from serve_core.wire.metadata import LINK_SECRET_KEY, LINK_SOCKET_KEY


class Links:
    """The links to the methods of a server, carried by gRPC, or by a socket of this host.

    Args:
        server: Serves the methods.
        limit_bytes: The largest message.
        kind: What carries them.
    """

    def __init__(self, server: Server, *, limit_bytes: int, kind: LinkKind) -> None:
        self._service = LinkService(server.handler, running=server.tasks, limit_bytes=limit_bytes)
        self._listener = UnixListener(self._service) if kind is LinkKind.UNIX else None
        server.add_stop_hook(self._service.close)

    async def start(self) -> None:
        """Listens."""
        if self._listener is not None:
            await self._listener.start()

    async def close(self) -> None:
        """Listens no more."""
        if self._listener is not None:
            await self._listener.close()

    async def serve(self, context: Any) -> None:
        """Serves a link in the call of ``context``, and tells its caller where one may be carried better."""
        listener = self._listener
        offer: Metadata = ()
        if listener is not None and listener.path:
            offer = ((LINK_SOCKET_KEY, listener.path), (LINK_SECRET_KEY, listener.secret))
        await serve_stream(self._service, context, offer)


def links_of(server: Server, max_message_bytes: int) -> Links | None:
    """The links that this process has by what was chosen; None if it has none.

    Args:
        server: Serves the methods.
        max_message_bytes: The configured limit of one message.
    """
    limit_bytes = message_limit(max_message_bytes)
    kind = chosen()
    return (
        None
        if kind is LinkKind.OFF or limit_bytes < MIN_LIMIT_BYTES
        else Links(server, limit_bytes=limit_bytes, kind=kind)
    )
