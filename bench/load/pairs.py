"""Reservations, each followed by the call that consumes it: what an outside client does to hold a slot before it calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.load import http2
from bench.load.loops import ClosedLoop, Unary, now
from bench.load.messages import ECHO, framed
from bench.load.wire import Connection
from serve_core.v1 import router_pb2
from serve_core.wire.metadata import SLOT_KEY

RESERVE = "/serve_core.v1.RouterService/ReserveSlot"
MESSAGE_HEAD_BYTES = 5


def reserve_request(application: str) -> bytes:
    """What asks for a slot."""
    return router_pb2.RouterServiceReserveSlotRequest(application=application).SerializeToString()


class Answer:
    """One call whose answer is read."""

    __slots__ = ("_received", "_take")

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._received = b""
        self._take = take

    def data(self, chunk: bytes) -> None:
        self._received += chunk

    def ended(self) -> None:
        self._take(self._received[MESSAGE_HEAD_BYTES:])


class ClosedPairs(ClosedLoop):
    """Every caller reserves a slot, then calls with its token, and begins again.

    Args:
        connections: Over which; callers are spread over them.
        concurrency: Callers.
        application: Whom to reserve at.
        echo: The call's message.
    """

    def __init__(self, connections: Sequence[Connection], concurrency: int, application: str, echo: bytes) -> None:
        super().__init__(connections, concurrency)
        self._reserve = framed(reserve_request(application))
        self._reserve_block = http2.grpc_headers(connections[0].authority, RESERVE)
        self._echo = framed(echo)
        self._echo_block = http2.grpc_headers(connections[0].authority, ECHO)

    def call(self, connection: Connection) -> None:
        begun_at = now()
        reply = Answer(lambda answer: self._reserved(connection, begun_at, answer))
        connection.call(self._reserve_block, self._reserve, reply)

    def _reserved(self, connection: Connection, begun_at: float, answer: bytes) -> None:
        token = router_pb2.RouterServiceReserveSlotResponse.FromString(answer).lease.slot_token
        if not token:
            self.done(connection, begun_at, answered=False)
            return
        block = self._echo_block + http2.header_block(((SLOT_KEY, token),))
        reply = Unary(len(self._echo), lambda answered: self.done(connection, begun_at, answered=answered))
        connection.call(block, self._echo, reply)
