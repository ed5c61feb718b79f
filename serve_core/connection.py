"""The router inside this process: one for each event loop and controller, shared by all handles."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from serve_core.client import controller_address

if TYPE_CHECKING:
    from router.embedded import EmbeddedRouter

Connect: TypeAlias = "Callable[[], Awaitable[EmbeddedRouter]]"

MAX_MESSAGE_BYTES_ENV = "SERVE_CORE_REPLICA_MAX_MESSAGE_BYTES"


class _Connection:
    """Starts its router once, whoever asks first; a start that failed is tried again by whoever asks next."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = asyncio.Lock()
        self.router: EmbeddedRouter | None = None
        """It, while it runs."""

    async def get(self) -> EmbeddedRouter:
        if self.router is None:
            async with self._lock:
                if self.router is None:
                    router = _new_router(self._address)
                    await router.start()
                    self.router = router
        return self.router

    async def close(self) -> None:
        async with self._lock:
            router, self.router = self.router, None
            if router is not None:
                await router.close()


def _new_router(address: str) -> EmbeddedRouter:
    # Not before it is used: most replicas call nobody.
    from router.embedded import EmbeddedRouter

    limit = os.environ.get(MAX_MESSAGE_BYTES_ENV, "")
    return EmbeddedRouter(address, max_message_bytes=int(limit)) if limit.isdigit() else EmbeddedRouter(address)


_connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Connection]] = weakref.WeakKeyDictionary()


def connector(controller: str | None) -> Connect:
    """What gives handles the router of the running loop to ``controller``; by default the environment's."""
    address = controller_address(controller)

    async def connect() -> EmbeddedRouter:
        loop = asyncio.get_running_loop()
        of_loop = _connections.get(loop)
        if of_loop is None:
            of_loop = _connections[loop] = {}
        connection = of_loop.get(address)
        if connection is None:
            connection = of_loop[address] = _Connection(address)
        return connection.router or await connection.get()

    return connect


async def close(controller: str | None = None) -> None:
    """Closes this loop's routers, or only the one to ``controller``. Handles connect again when they are used."""
    of_loop = _connections.get(asyncio.get_running_loop(), {})
    for address in [controller] if controller is not None else list(of_loop):
        connection = of_loop.pop(address, None)
        if connection is not None:
            await connection.close()
