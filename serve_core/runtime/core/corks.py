"""Holds back what is written to a connection until it is let go: then all of it leaves at once.

``TCP_CORK``, as in tcp(7). grpcio does not tell of the sockets of its connections, so they are found among the descriptors of this
process, by the names that callers have. They are only asked for their names, in C: an object of Python's may change what it
stands for, and these are others'.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from serve_core.runtime.clock import monotonic

DESCRIPTORS_MAX = 1024
"""A process that has more is not looked through: each takes about two microseconds, and where there are as many connections, answers to
the same one seldom come together.
"""

UNKNOWN_S = 1.0
"""How long after a look the next one comes, at least, where there is a caller that was not found."""

KNOWN_S = 30.0
"""How long a look is believed. What was closed since, and opened anew under the same number, is held back in vain for a moment,
and that to nobody's harm."""

_DESCRIPTORS = "/proc/self/fd"
_MAPPED = "::ffff:"
_OPTION: int | None = getattr(socket, "TCP_CORK", None)
_ON, _OFF = ctypes.c_int(1), ctypes.c_int(0)
_AT_ON, _AT_OFF = ctypes.byref(_ON), ctypes.byref(_OFF)
_SIZE = ctypes.sizeof(ctypes.c_int)

_FAMILY = struct.Struct("=H")
_PORT_V4 = struct.Struct("!2xH4s")
"""As in ip(7): the family, then the port and the address."""

_PORT_V6 = struct.Struct("!2xH4x16s")
"""As in ipv6(7): the port and the address have the flow between them."""

_ADDRESS_BYTES = 128


class Corks:
    """The connections of callers by TCP, where the system can hold them back. Nowhere else is there any."""

    def __init__(self) -> None:
        self._descriptors: Mapping[str, int] = {}
        self._looked_at = float("-inf")
        self._library: Any = ctypes.CDLL(None) if _OPTION is not None else None
        self._set: Any = self._library and self._library.setsockopt

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
        try:
            names = os.listdir(_DESCRIPTORS)
        except OSError:
            names = []
        found: dict[str, int] = {}
        if len(names) <= DESCRIPTORS_MAX:
            for descriptor in map(int, names):
                peer = self._peer(descriptor)
                if peer:
                    found[peer] = descriptor
        self._descriptors = found
        self._looked_at = monotonic()

    def _peer(self, descriptor: int) -> str:
        """Who is at the other end, as gRPC has it; empty if this is no connection over an internet protocol."""
        address = ctypes.create_string_buffer(_ADDRESS_BYTES)
        size = ctypes.c_uint(_ADDRESS_BYTES)
        if self._library.getpeername(descriptor, address, ctypes.byref(size)):
            return ""
        (family,) = _FAMILY.unpack_from(address.raw)
        if family == socket.AF_INET:
            port, raw = _PORT_V4.unpack_from(address.raw)
            return f"ipv4:{socket.inet_ntop(socket.AF_INET, raw)}:{port}"
        if family != socket.AF_INET6:
            return ""
        port, raw = _PORT_V6.unpack_from(address.raw)
        host = socket.inet_ntop(socket.AF_INET6, raw)
        if host.startswith(_MAPPED):
            return f"ipv4:{host.removeprefix(_MAPPED)}:{port}"
        return f"ipv6:%5B{host}%5D:{port}"
