"""One connection of a load generator: gRPC calls on a plain socket, without a library and without an event loop."""

from __future__ import annotations

import socket
from collections import deque
from typing import Protocol

from bench.load import http2
from bench.load.http2 import FrameReader

RECEIVE_BYTES = 1 << 18
STREAMS_MAX = 1 << 20


class Reply(Protocol):
    """What hears of a call."""

    def data(self, chunk: bytes) -> None:
        """More of the answer came."""

    def ended(self) -> None:
        """It is over. What did not come until now will not come."""


class Connection:
    """A connection to a gRPC server, over which calls are sent that are known beforehand.

    Args:
        address: ``HOST:PORT``.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.authority = address
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0)
        self._reader = FrameReader()
        self._replies: dict[int, Reply] = {}
        self._next_stream = 1
        self._out = bytearray(http2.opening())
        self._window = http2.FIRST_WINDOW_BYTES
        self._streams_max = STREAMS_MAX
        self._received = 0
        self._held: deque[tuple[bytes, bytes, Reply]] = deque()

    @property
    def under_way(self) -> int:
        """Calls without an end, those not sent yet included."""
        return len(self._replies) + len(self._held)

    @property
    def wants_to_write(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends it, and whatever is under way."""
        self._socket.close()

    def call(self, block: bytes, body: bytes, reply: Reply) -> None:
        """Sends a call with the next ``flush``, or as soon as the server allows for it.

        Args:
            block: Its headers (``http2.grpc_headers``).
            body: Its one message, framed.
            reply: What hears of the answer.
        """
        if self._held or not self._has_room(body):
            self._held.append((block, body, reply))
        else:
            self._send(block, body, reply)

    def _has_room(self, body: bytes) -> bool:
        return len(self._replies) < self._streams_max and len(body) <= self._window

    def _send(self, block: bytes, body: bytes, reply: Reply) -> None:
        self._replies[self._next_stream] = reply
        self._out += http2.request(self._next_stream, block, body)
        self._next_stream += 2
        self._window -= len(body)

    def flush(self) -> None:
        """Sends as much as the socket takes."""
        while self._held and self._has_room(self._held[0][1]):
            self._send(*self._held.popleft())
        if self._out:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            del self._out[:sent]

    def receive(self) -> None:
        """Reads what there is, and tells the calls.

        Raises:
            ConnectionError: The server has closed the connection, or says that it will.
        """
        try:
            received = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not received:
            raise ConnectionError(f"{self.authority} has closed the connection")
        for one in self._reader.feed(received):
            self._take(one)
        if self._received > http2.WINDOW_BYTES // 4:
            self._out += http2.window_update(self._received)
            self._received = 0

    def _take(self, one: http2.Frame) -> None:
        if one.kind == http2.DATA:
            self._received += len(one.payload)
            reply = self._replies.get(one.stream)
            if reply is not None and one.payload:
                reply.data(http2.data_of(one))
            if one.flags & http2.END_STREAM:
                self._end(one.stream)
        elif one.kind == http2.HEADERS:
            if one.flags & http2.END_STREAM:
                self._end(one.stream)
        elif one.kind == http2.RST_STREAM:
            self._end(one.stream)
        else:
            self._take_control(one)

    def _end(self, stream: int) -> None:
        reply = self._replies.pop(stream, None)
        if reply is not None:
            reply.ended()

    def _take_control(self, one: http2.Frame) -> None:
        if one.kind == http2.WINDOW_UPDATE and one.stream == 0:
            self._window += int.from_bytes(one.payload, "big")
        elif one.kind == http2.PING and not one.flags & http2.ACK:
            self._out += http2.frame(http2.PING, http2.ACK, 0, one.payload)
        elif one.kind == http2.SETTINGS and not one.flags & http2.ACK:
            allowed = http2.settings(one.payload).get(http2.MAX_CONCURRENT_STREAMS)
            self._streams_max = STREAMS_MAX if allowed is None else allowed
            self._out += http2.frame(http2.SETTINGS, http2.ACK, 0, b"")
        elif one.kind == http2.GOAWAY:
            raise ConnectionError(f"{self.authority} closes the connection")
