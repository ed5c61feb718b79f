"""The HTTP server: listens, and can stop that without harm to the connections that it has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web

from serve_core.runtime.accepting import accept_no_more


class HttpServer:
    """Serves an application on a socket.

    Args:
        app: The application.
        listening: The socket; closed by its owner.
        is_leaving: Whether callers are to leave: then each answer ends its connection.
        cancel_grace_s: Seconds that ``close`` leaves to what runs.
    """

    def __init__(
        self,
        app: web.Application,
        listening: socket.socket,
        *,
        is_leaving: Callable[[], bool],
        cancel_grace_s: float,
    ) -> None:
        self._listening = listening
        self._is_leaving = is_leaving
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=cancel_grace_s, handle_signals=False
        )
        self._site: web.SockSite | None = None
        app.on_response_prepare.append(self._prepare)

    async def start(self) -> None:
        """Serves."""
        await self._runner.setup()
        self._site = web.SockSite(self._runner, self._listening)
        await self._site.start()

    async def stop_listening(self) -> None:
        """Has no new connection come. Those that it has go on, also those that nobody has accepted yet."""
        site, server = self._site, self._runner.server
        if site is None or server is None:
            return
        self._site = None
        await accept_no_more((self._listening,))
        arrived = self._arrived()
        await site.stop()
        loop = asyncio.get_running_loop()
        for connection in arrived:
            await loop.connect_accepted_socket(server, connection)

    async def close(self) -> None:
        """Ends every connection, with what is still on it."""
        await self._runner.cleanup()

    def _arrived(self) -> list[socket.socket]:
        arrived: list[socket.socket] = []
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return arrived
            connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
            arrived.append(connection)

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        del request
        if self._is_leaving():
            # Said, too: a caller that is not told may send its next request as the connection closes.
            response.force_close()
            response.headers["Connection"] = "close"
