"""The HTTP port: it listens from the start on, and what serves it is loaded when the first caller comes.

That is 10 MB and a tenth of a second, which a router without HTTP callers does without.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from router import sockets
from serve_core.runtime.supervisor import Supervisor

LOAD_TIMEOUT_S = 10.0
"""How long ``close`` waits for a server that is being loaded."""


class Serving(Protocol):
    """A server that listens: see ``HttpServer``."""

    async def stop_listening(self) -> None:
        """Has no new connection come."""

    async def close(self) -> None:
        """Ends every connection."""


class HttpDoor:
    """Has a socket served from its first connection on. Whoever comes earlier waits in the socket's queue.

    Args:
        listening: The socket, which listens; closed by its owner.
        load: Makes the server, and starts it.
        tasks: Owns the task that loads it, and hears if that fails.
    """

    def __init__(
        self, listening: socket.socket, *, load: Callable[[socket.socket], Awaitable[Serving]], tasks: Supervisor
    ) -> None:
        self.port = int(listening.getsockname()[1])
        self._listening = listening
        self._load = load
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._looks_out = False
        self._serving: asyncio.Task[Serving] | None = None

    @property
    def connections(self) -> int:
        """How many connections callers hold."""
        return sockets.connections(self.port)

    @property
    def loaded(self) -> bool:
        """Whether there was a caller."""
        return self._serving is not None

    def open(self) -> None:
        """Looks out for the first caller."""
        self._loop.add_reader(self._listening, self._serve)
        self._looks_out = True

    async def stop_listening(self) -> None:
        """Has no new connection come. Those that it has go on, also those that nobody has accepted yet."""
        if self._serving is None and not self._called():
            self._look_away()
            self._listening.close()
            return
        server = await asyncio.shield(self._serve())
        await server.stop_listening()

    async def close(self) -> None:
        """Ends every connection, with what is still on it."""
        self._look_away()
        serving = self._serving
        if serving is None:
            return
        await asyncio.wait({serving}, timeout=LOAD_TIMEOUT_S)
        # If it failed, its supervisor was told.
        if serving.done() and not serving.cancelled() and serving.exception() is None:
            await serving.result().close()

    def _serve(self) -> asyncio.Task[Serving]:
        if self._serving is None:
            self._look_away()
            self._serving = self._tasks.spawn(self._loaded(), name="serve HTTP")
        return self._serving

    def _look_away(self) -> None:
        if self._looks_out:
            self._looks_out = False
            self._loop.remove_reader(self._listening)

    async def _loaded(self) -> Serving:
        return await self._load(self._listening)

    def _called(self) -> bool:
        """Whether somebody waits to be accepted."""
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        return bool(poll.poll(0))
