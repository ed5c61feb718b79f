"""How a socket ends to be accepted from, where an asyncio server does that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol


class _Listening(Protocol):
    def fileno(self) -> int:
        """Its descriptor."""


async def accept_no_more(sockets: Iterable[_Listening]) -> None:
    """Has asyncio accept nothing more from sockets that it serves, and connect what it has accepted; then they may be closed.

    It connects what it accepts one turn later. If its server is closed by then, it drops it and does not even close it,
    until Python 3.13.
    """
    loop = asyncio.get_running_loop()
    for listening in sockets:
        loop.remove_reader(listening.fileno())
    await asyncio.sleep(0)
