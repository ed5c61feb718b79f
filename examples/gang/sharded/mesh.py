"""An all-reduce over the members' own sockets: each is connected to the leader, at the rendezvous that is kept for the gang."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

import serve_core

TIMEOUT_S = 10.0
"""For the members to meet, and for each of them to take part."""

RETRY_S = 0.05
_HELLO = struct.Struct("!QQ")


class Mesh:
    """The connections of one epoch of a gang. Once one of them fails, all of them end: so that nobody waits for the others."""

    def __init__(self, connections: Mapping[int, socket.socket], *, epoch: int, leads: bool) -> None:
        self.epoch = epoch
        self._connections = connections
        self._leads = leads
        self.closed = False

    @classmethod
    def join(cls, gang: serve_core.GangContext) -> Mesh:
        """Waits until every member is connected.

        Raises:
            OSError: Some did not come.
        """
        roster, rank, ends_at = gang.roster, gang.rank, time.monotonic() + TIMEOUT_S
        where = (roster.rendezvous_host, roster.rendezvous_port)
        if rank:
            connection = _connected(where, ends_at)
            connection.sendall(_HELLO.pack(rank, roster.epoch))
            return cls({0: connection}, epoch=roster.epoch, leads=False)
        connections: dict[int, socket.socket] = {}
        with socket.create_server(where) as server:
            while len(connections) < len(roster.members) - 1:
                server.settimeout(max(0.001, ends_at - time.monotonic()))
                connection = _prepared(server.accept()[0])
                other, epoch = _HELLO.unpack(_received(connection, _HELLO.size))
                if epoch == roster.epoch:
                    connections[other] = connection
                else:
                    connection.close()
        return cls(connections, epoch=roster.epoch, leads=True)

    def all_reduce(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of what every member gives, for each of them.

        Raises:
            OSError: Not all took part.
        """
        try:
            return self._sum(np.ascontiguousarray(values))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the connections, and what waits for something to come over them."""
        self.closed = True
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._leads:
            self._connections[0].sendall(values.tobytes())
            return _array(self._connections[0], values)
        total = values.copy()
        for connection in self._connections.values():
            total += _array(connection, values)
        for connection in self._connections.values():
            connection.sendall(total.tobytes())
        return total


def _connected(where: tuple[str, int], ends_at: float) -> socket.socket:
    """A connection to the leader, which may have to begin to listen."""
    while True:
        try:
            return _prepared(socket.create_connection(where, timeout=TIMEOUT_S))
        except ConnectionRefusedError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(RETRY_S)


def _prepared(connection: socket.socket) -> socket.socket:
    connection.settimeout(TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _array(connection: socket.socket, like: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.frombuffer(_received(connection, like.nbytes)).reshape(like.shape)


def _received(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("a member of the gang has left")
        data += part
    return bytes(data)
