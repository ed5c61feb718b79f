"""What arrives at one end of a link: pieces become messages, and room is granted as they are taken."""

from __future__ import annotations

import tracemalloc

import pytest

from serve_core.link.core.incoming import Incoming, OverrunError, OversizeError
from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES

LIMIT = 10 * WINDOW_BYTES
PIECE = b"x" * CHUNK_BYTES


def test_pieces_become_a_message() -> None:
    incoming = Incoming(LIMIT)
    ready = []
    for data, more in ((b"one", True), (b"two", True), (b"", False)):
        ready.append(incoming.ready)
        incoming.feed(data, more=more)
    assert incoming.take() == b"onetwo"
    assert [*ready, incoming.ready] == [False] * 4


def test_what_arrives_in_a_buffer_that_is_used_again_becomes_a_message_by_one_copy() -> None:
    buffer, incoming, size = bytearray(CHUNK_BYTES), Incoming(LIMIT), 3 * WINDOW_BYTES
    count = size // CHUNK_BYTES
    tracemalloc.start()
    try:
        for number in range(count):
            buffer[:] = bytes([number]) * CHUNK_BYTES
            incoming.feed(memoryview(buffer), more=number < count - 1, message_bytes=0 if number else size)
        message = incoming.take()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert message == b"".join(bytes([number]) * CHUNK_BYTES for number in range(count))
    assert peak < size + 4 * CHUNK_BYTES, "more than the message, and the pieces of this test"


def test_a_whole_message_in_such_a_buffer_is_copied() -> None:
    buffer, incoming = bytearray(b"one"), Incoming(LIMIT)
    incoming.feed(memoryview(buffer), more=False)
    buffer[:] = b"two"
    message = incoming.take()
    assert (message, type(message)) == (b"one", bytes)


@pytest.mark.parametrize("said", [0, 1, 5, 6, 7, 1000])
def test_a_message_is_what_has_come_of_it_whatever_was_said(said: int) -> None:
    incoming = Incoming(LIMIT)
    incoming.feed(b"one", more=True, message_bytes=said)
    incoming.feed(b"two", more=False)
    assert incoming.take() == b"onetwo"


def test_a_message_that_says_that_it_is_above_the_limit_gets_no_room() -> None:
    with pytest.raises(OversizeError):
        Incoming(LIMIT).feed(PIECE, more=True, message_bytes=LIMIT + 1)


def test_an_empty_message_is_one() -> None:
    incoming = Incoming(LIMIT)
    incoming.feed(b"", more=False)
    assert incoming.take() == b""


def test_little_is_not_worth_a_word() -> None:
    incoming = Incoming(LIMIT)
    incoming.feed(b"x", more=False)
    incoming.take()
    assert incoming.grant() == 0


def test_what_was_taken_is_granted_once() -> None:
    incoming = Incoming(LIMIT)
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        incoming.feed(PIECE[MESSAGE_COST_BYTES:], more=False)
    assert incoming.grant() == 0
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        incoming.take()
    assert incoming.grant() == WINDOW_BYTES
    assert incoming.grant() == 0


def test_a_message_larger_than_the_window_goes_on_while_nothing_is_before_it() -> None:
    incoming = Incoming(LIMIT)
    granted = 0
    for _ in range(12):
        incoming.feed(PIECE, more=True)
        granted += incoming.grant()
    assert granted == 12 * CHUNK_BYTES


def test_a_message_behind_one_that_nobody_takes_is_not_granted_until_that_is_taken() -> None:
    incoming = Incoming(LIMIT)
    incoming.feed(b"first", more=False)
    for _ in range(5):
        incoming.feed(PIECE, more=True)
    assert incoming.grant() == 0
    incoming.take()
    assert incoming.grant() == 5 * CHUNK_BYTES + len(b"first") + MESSAGE_COST_BYTES


def test_a_message_above_the_limit_is_told_as_soon_as_it_is_one() -> None:
    incoming = Incoming(2 * CHUNK_BYTES)
    incoming.feed(PIECE, more=True)
    incoming.feed(PIECE, more=True)
    with pytest.raises(OversizeError):
        incoming.feed(b"x", more=False)


def test_who_sends_more_than_there_is_room_for_is_told_from_who_does_not() -> None:
    incoming = Incoming(LIMIT)
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        incoming.feed(PIECE, more=False)
    with pytest.raises(OverrunError):
        incoming.feed(PIECE, more=False)


def test_a_piece_larger_than_a_piece_may_be() -> None:
    with pytest.raises(OverrunError):
        Incoming(LIMIT).feed(PIECE + b"x", more=False)
