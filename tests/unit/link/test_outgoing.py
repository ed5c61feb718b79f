"""What leaves one end of a link: order, pieces, room and turns."""

from __future__ import annotations

from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES
from serve_core.link.core.outgoing import Outgoing, Piece, Turns

SMALL = b"x" * 100


def everything(outgoing: Outgoing[str]) -> list[Piece | str]:
    pulled = []
    while outgoing.sendable:
        pulled.append(outgoing.pull())
    return pulled


def test_a_small_message_passes_by() -> None:
    outgoing: Outgoing[str] = Outgoing()
    assert outgoing.pass_by(100)
    assert not outgoing.sendable
    assert not outgoing.waiting
    assert outgoing.sent == 1


def test_a_message_as_large_as_a_piece_passes_and_a_larger_one_does_not() -> None:
    assert Outgoing[str]().pass_by(CHUNK_BYTES)
    assert not Outgoing[str]().pass_by(CHUNK_BYTES + 1)


def test_nothing_passes_what_waits() -> None:
    outgoing: Outgoing[str] = Outgoing()
    outgoing.put(SMALL)
    assert not outgoing.pass_by(1)
    assert everything(outgoing) == [Piece(SMALL, more=False)]
    assert outgoing.pass_by(1)


def test_a_large_message_is_cut() -> None:
    outgoing: Outgoing[str] = Outgoing()
    number = outgoing.put(b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c")
    first = outgoing.pull()
    assert first == Piece(b"a" * CHUNK_BYTES, more=True, message_bytes=2 * CHUNK_BYTES + 1)
    assert outgoing.sent < number
    assert everything(outgoing) == [Piece(b"b" * CHUNK_BYTES, more=True), Piece(b"c", more=False)]
    assert outgoing.sent == number


def test_what_is_cut_is_not_copied() -> None:
    outgoing: Outgoing[str] = Outgoing()
    message = b"a" * 3 * CHUNK_BYTES
    outgoing.put(message)
    assert all(isinstance(one, Piece) and one.data.obj is message for one in everything(outgoing))  # type: ignore[union-attr]
    outgoing.put(SMALL)
    assert [one.data is SMALL for one in everything(outgoing) if isinstance(one, Piece)] == [True]


def test_a_message_of_whole_pieces_ends_with_its_last_piece() -> None:
    outgoing: Outgoing[str] = Outgoing()
    outgoing.put(b"a" * 2 * CHUNK_BYTES)
    assert [(len(piece.data), piece.more) for piece in everything(outgoing) if isinstance(piece, Piece)] == [
        (CHUNK_BYTES, True),
        (CHUNK_BYTES, False),
    ]


def test_it_stops_where_there_is_no_more_room_and_goes_on_with_more() -> None:
    outgoing: Outgoing[str] = Outgoing()
    outgoing.put(b"a" * (WINDOW_BYTES + 10))
    pulled = everything(outgoing)
    assert sum(len(piece.data) for piece in pulled if isinstance(piece, Piece)) == WINDOW_BYTES
    assert outgoing.waiting
    outgoing.grant(4)
    assert everything(outgoing) == [Piece(b"a" * 4, more=True)]
    outgoing.grant(100)
    assert everything(outgoing) == [Piece(b"a" * 6, more=False)]


def test_empty_messages_need_room_too() -> None:
    outgoing: Outgoing[str] = Outgoing()
    count = 0
    while outgoing.pass_by(0):
        count += 1
    assert count == WINDOW_BYTES // MESSAGE_COST_BYTES
    outgoing.put(b"")
    assert not outgoing.sendable
    outgoing.grant(1)
    assert everything(outgoing) == [Piece(b"", more=False)]


def test_the_last_step_comes_after_the_messages_and_needs_no_room() -> None:
    outgoing: Outgoing[str] = Outgoing()
    assert not outgoing.put_last("end")
    outgoing.put(b"a" * WINDOW_BYTES)
    assert outgoing.put_last("end")
    pulled = everything(outgoing)
    assert pulled[-1] == "end"
    assert isinstance(pulled[-2], Piece)
    assert not pulled[-2].more


def test_what_is_cleared_does_not_leave() -> None:
    outgoing: Outgoing[str] = Outgoing()
    outgoing.put(SMALL)
    outgoing.clear()
    assert not outgoing.sendable


def test_calls_take_turns_piece_by_piece() -> None:
    turns: Turns[str, str] = Turns()
    for name, size in (("large", 3 * CHUNK_BYTES), ("small", 10), ("medium", 2 * CHUNK_BYTES)):
        outgoing: Outgoing[str] = Outgoing()
        outgoing.put(b"x" * size)
        turns.ready(name, outgoing)
    order = []
    while turns:
        order.append(turns.pull()[0])
    assert order == ["large", "small", "medium", "large", "medium", "large"]


def test_a_call_without_room_takes_no_turn_until_it_has_some() -> None:
    turns: Turns[str, str] = Turns()
    stuck, free = Outgoing[str](), Outgoing[str]()
    stuck.put(b"x" * 2 * WINDOW_BYTES)
    turns.ready("stuck", stuck)
    while turns:
        turns.pull()
    turns.ready("stuck", stuck)
    free.put(SMALL)
    turns.ready("free", free)
    assert turns.pull()[0] == "free"
    assert not turns
    stuck.grant(1)
    turns.ready("stuck", stuck)
    assert turns.pull()[0] == "stuck"


def test_a_forgotten_call_takes_no_turn() -> None:
    turns: Turns[str, str] = Turns()
    outgoing: Outgoing[str] = Outgoing()
    outgoing.put(SMALL)
    turns.ready("gone", outgoing)
    turns.forget("gone")
    assert not turns
