"""A port that is kept free for the members of a gang to meet at."""

from __future__ import annotations

import socket


class ReservedPort:
    """A port of all of this machine's addresses, that nobody else is given as long as this lives.

    The socket is bound and never listens. On Linux another one may be bound to the same port, and listen there, if both
    have SO_REUSEADDR set; the system itself gives the port to nobody who lets it choose one.

    Raises:
        OSError: There is no port left.
    """

    def __init__(self) -> None:
        self._socket = _bound()
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Gives it up."""
        self._socket.close()


def _bound() -> socket.socket:
    if socket.has_dualstack_ipv6():
        reserved = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    else:
        reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
    except OSError:
        reserved.close()
        raise
    return reserved
