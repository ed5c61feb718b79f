"""Calls that share a link, under any interleaving: each gets its own messages, in order and once, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serve_core.link.core.incoming import Incoming
from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES
from serve_core.link.core.outgoing import Outgoing, Piece, Turns

CALLS = 3
LIMIT = 8 * WINDOW_BYTES
SIZES = st.sampled_from([0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, WINDOW_BYTES, 3 * WINDOW_BYTES])
WHICH = st.integers(0, CALLS - 1)


@dataclass
class Call:
    """Both ends of one call's way, and what is between them."""

    out: Outgoing[str] = field(default_factory=Outgoing)
    into: Incoming = field(default_factory=lambda: Incoming(LIMIT))
    written: list[bytes] = field(default_factory=list)
    read: list[bytes] = field(default_factory=list)
    flying: list[Piece] = field(default_factory=list)
    grants: list[int] = field(default_factory=list)
    sent_bytes: int = 0
    read_bytes: int = 0


class Link(RuleBasedStateMachine):
    """Some calls whose messages and grants travel in order, at any pace, between readers at any pace."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [Call() for _ in range(CALLS)]
        self.turns: Turns[int, str] = Turns()
        self.marks = 0

    @rule(which=WHICH, size=SIZES)
    def write(self, which: int, size: int) -> None:
        call = self.calls[which]
        self.marks += 1
        message = (b"%d." % self.marks).ljust(size, b"x")[: max(size, 1)] if size else b""
        call.written.append(message)
        if call.out.pass_by(len(message)):
            call.flying.append(Piece(message, more=False))
            call.sent_bytes += len(message) + MESSAGE_COST_BYTES
        else:
            call.out.put(message)
            self.turns.ready(which, call.out)

    @precondition(lambda self: self.turns)
    @rule()
    def send(self) -> None:
        which, piece = self.turns.pull()
        assert isinstance(piece, Piece)
        assert len(piece.data) <= CHUNK_BYTES
        call = self.calls[which]
        call.flying.append(piece)
        call.sent_bytes += len(piece.data) + (0 if piece.more else MESSAGE_COST_BYTES)

    @rule(which=WHICH, count=st.integers(1, 8))
    def arrive(self, which: int, count: int) -> None:
        call = self.calls[which]
        for piece in call.flying[:count]:
            call.into.feed(piece.data, more=piece.more)
            self._grant(call)
        del call.flying[:count]

    @rule(which=WHICH)
    def take(self, which: int) -> None:
        call = self.calls[which]
        if call.into.ready:
            message = call.into.take()
            call.read.append(message)
            call.read_bytes += len(message) + MESSAGE_COST_BYTES
            self._grant(call)

    @rule(which=WHICH)
    def granted(self, which: int) -> None:
        call = self.calls[which]
        if call.grants:
            call.out.grant(call.grants.pop(0))
            self.turns.ready(which, call.out)

    @staticmethod
    def _grant(call: Call) -> None:
        size = call.into.grant()
        if size:
            call.grants.append(size)

    @invariant()
    def in_order_and_once(self) -> None:
        for call in self.calls:
            assert call.read == call.written[: len(call.read)]

    @invariant()
    def bounded(self) -> None:
        for call in self.calls:
            longest = max((len(message) for message in call.written), default=0)
            assert call.sent_bytes - call.read_bytes <= WINDOW_BYTES + MESSAGE_COST_BYTES + longest

    def teardown(self) -> None:
        """Whoever is read from gets everything, though another one's reader has stopped for good."""
        reading = range(1, CALLS)
        for _ in range(10_000):
            if all(self.calls[which].read == self.calls[which].written for which in reading):
                return
            for which in reading:
                self.arrive(which, 8)
                self.take(which)
                self.granted(which)
            if self.turns:
                self.send()
        raise AssertionError("a call does not get on")


TestLink = Link.TestCase
