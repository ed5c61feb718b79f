"""Holds back what is written to a connection until it is let go: then all of it leaves at once.

``TCP_CORK``, as in tcp(7). grpcio does not tell of the sockets of its connections, so they are found among those of this process,
by the names that callers have.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Mapping
from typing import Any

from serve_core.runtime.clock import monotonic
from serve_core.runtime.own_sockets import own_sockets

DESCRIPTORS_MAX = 512
"""A process that has more is not looked through: that would take longer than a few milliseconds, and where there are as many
connections, answers to the same one seldom come together.
"""

UNKNOWN_S = 1.0
"""How long after a look the next one comes, at least, where there is a caller that was not found."""

KNOWN_S = 30.0
"""How long a look is believed. What was closed since, and opened anew under the same number, is held back in vain for a moment,
and that by nobody's harm."""

_MAPPED = "::ffff:"
_OPTION: int | None = getattr(socket, "TCP_CORK", None)
_ON, _OFF = ctypes.c_int(1), ctypes.c_int(0)
_AT_ON, _AT_OFF = ctypes.byref(_ON), ctypes.byref(_OFF)
_SIZE = ctypes.sizeof(ctypes.c_int)


class Corks:
    """The connections of callers by TCP, where the system can hold them back. Nowhere else is there any."""

    def __init__(self) -> None:
        self._descriptors: Mapping[str, int] = {}
        self._looked_at = float("-inf")
        self._set: Any = ctypes.CDLL(None).setsockopt if _OPTION is not None else None

    def hold(self, peer: str) -> int | None:
        """Holds back what is written to the connection of this caller, as gRPC names it, from now on.

        Returns:
            What ``let_go`` has to be called with; None if it is not held back.
        """
        if self._set is None:
            return None
        descriptor = self._descriptors.get(peer)
        since_s = monotonic() - self._looked_at
        if since_s >= (UNKNOWN_S if descriptor is None else KNOWN_S):
            self._look()
            descriptor = self._descriptors.get(peer)
        if descriptor is None or self._set(descriptor, socket.IPPROTO_TCP, _OPTION, _AT_ON, _SIZE):
            return None
        return descriptor

    def let_go(self, descriptor: int) -> None:
        """Has what was held back leave."""
        self._set(descriptor, socket.IPPROTO_TCP, _OPTION, _AT_OFF, _SIZE)

    def _look(self) -> None:
        found: dict[str, int] = {}
        for descriptor, sock in own_sockets(most=DESCRIPTORS_MAX):
            name = _peer(sock)
            if name:
                found[name] = descriptor
        self._descriptors = found
        self._looked_at = monotonic()


def _peer(sock: socket.socket) -> str:
    """Who is at the other end, as gRPC has it; empty unless that is known, and by TCP."""
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        host, port, *_ = sock.getpeername()
    except OSError:  # It listens, or is not connected any more.
        return ""
    if sock.family == socket.AF_INET or host.startswith(_MAPPED):
        return f"ipv4:{host.removeprefix(_MAPPED)}:{port}"
    return f"ipv6:%5B{host}%5D:{port}"
