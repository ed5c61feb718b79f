"""The sockets of this process, whoever opened them, as the system knows them. Where there is no ``/proc``, none is found."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


def own_sockets(*, most: int | None = None) -> Iterator[tuple[int, socket.socket]]:
    """Descriptors of this process that are sockets, and each as an object of its own, which is open for as long as it is looked at.

    Args:
        most: Of a process that has more descriptors than this, of any kind, none is looked at.
    """
    try:
        names = [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:
        return
    if most is not None and len(names) > most:
        return
    for name in names:
        sock = _duplicate(name)
        if sock is not None:
            with sock:
                yield name, sock


def _duplicate(descriptor: int) -> socket.socket | None:
    """The socket behind a descriptor, or None. The owner may close its own meanwhile, and take the number for another."""
    try:
        if not os.readlink(_DESCRIPTORS / str(descriptor)).startswith("socket:"):
            return None
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
