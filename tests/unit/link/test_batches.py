"""Batches in a stream of bytes, and what is attached to them, wherever the stream is cut."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.link.batches import BATCH_BYTES_MAX, FORMAT, BrokenError, Reading, written
from serve_core.link.core.limits import CHUNK_BYTES
from serve_core.link.frames import CREDIT, MESSAGE, OPEN, Frame


def bytes_of(*parts: bytes | memoryview) -> bytes:
    return b"".join(parts)


STREAM = bytes_of(
    *written([Frame(OPEN, 1, method="/a/b")], ()),
    *written(
        [
            Frame(CREDIT, 2, credit=7),
            Frame(MESSAGE, 1, attached=10, more=True, message_bytes=25),
            Frame(MESSAGE, 3, b"inside"),
            Frame(MESSAGE, 1, attached=15),
            Frame(CREDIT, 2, credit=8),
        ],
        (b"0123456789", memoryview(b"...abcdefghijklmno")[3:]),
    ),
    *written([Frame(MESSAGE, 1, attached=3)], (b"end",)),
    *written([Frame(CREDIT, 4, credit=9)], ()),
)


def told(pieces: Iterable[bytes]) -> list[tuple[int, object]]:
    """What is read of a stream in these pieces, in one buffer: credits, and messages once they are whole."""
    reading = Reading()
    buffer = bytearray(len(STREAM))
    found: list[tuple[int, object]] = []
    parts: dict[int, bytes] = {}
    for piece in pieces:
        buffer[: len(piece)] = piece
        for one in reading.batches(memoryview(buffer)[: len(piece)]):
            for frame in one:
                if frame.step != MESSAGE:
                    found.append((frame.call_id, frame.credit or frame.method))
                    continue
                parts[frame.call_id] = parts.get(frame.call_id, b"") + bytes(frame.data or b"")
                if not frame.more:
                    found.append((frame.call_id, parts.pop(frame.call_id)))
    return found


ALL = [
    (1, "/a/b"),
    (2, 7),
    (3, b"inside"),
    (1, b"0123456789abcdefghijklmno"),
    (2, 8),
    (1, b"end"),
    (4, 9),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_wherever_it_is_cut_it_says_the_same(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    assert told(STREAM[begin:end] for begin, end in pairwise(at)) == ALL


def test_also_byte_by_byte() -> None:
    assert told(STREAM[at : at + 1] for at in range(len(STREAM))) == ALL


def stream(array: bytes, *, attached: int = 0) -> bytes:
    return struct.pack("<II", len(array), attached) + array


ATTACHING = msgspec.msgpack.encode([Frame(MESSAGE, 1, attached=4)])
BROKEN = {
    "too long": struct.pack("<II", BATCH_BYTES_MAX + 1, 0),
    "no array": stream(b"\xff\xff\xff"),
    "nothing": stream(b""),
    "cut short": stream(b"\xdd\xff\xff\xff\xff"),
    "more than an array": stream(msgspec.msgpack.encode([Frame(CREDIT, 1)]) + b"\x90"),
    "no frame": stream(msgspec.msgpack.encode([7])),
    "no step": stream(msgspec.msgpack.encode([[]])),
    "no number": stream(msgspec.msgpack.encode([[CREDIT, "1"]])),
    "less than nothing": stream(msgspec.msgpack.encode([Frame(CREDIT, 1, credit=-1)])),
    "no text": stream(msgspec.msgpack.encode([[OPEN, 1, None, [], False, "~"]]).replace(b"~", b"\xff")),
    "nothing attached": stream(msgspec.msgpack.encode([Frame(CREDIT, 1)]), attached=1),
    "less attached": stream(ATTACHING, attached=3),
    "a piece too large": stream(
        msgspec.msgpack.encode([Frame(MESSAGE, 1, attached=CHUNK_BYTES + 1)]), attached=CHUNK_BYTES + 1
    ),
    "to what has no data": stream(msgspec.msgpack.encode([Frame(CREDIT, 1, attached=4)]), attached=4),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_batch_is_told(name: str) -> None:
    for cut in (len(BROKEN[name]), 2):
        reading = Reading()
        with pytest.raises(BrokenError):
            _ = [list(reading.batches(memoryview(piece))) for piece in (BROKEN[name][:cut], BROKEN[name][cut:])]


@given(st.binary(max_size=64), st.integers(0, len(STREAM)), st.integers(0, len(STREAM)))
def test_whatever_comes_is_frames_or_broken(garbage: bytes, begin: int, end: int) -> None:
    """Also within a stream, in the place of a part of it."""
    for given_bytes in (garbage, stream(garbage), STREAM[:begin] + garbage + STREAM[end:]):
        try:
            frames = [frame for batch in Reading().batches(memoryview(given_bytes)) for frame in batch]
        except BrokenError:
            continue
        assert all(isinstance(frame, Frame) for frame in frames)


class Text(str):
    __slots__ = ()


class Data(bytes):
    __slots__ = ()


def test_values_of_derived_types_are_what_they_derive_from() -> None:
    sent = Frame(MESSAGE, 1, Data(b"data"), metadata=((Text("key"), Text("value")),))
    (raw,) = written([sent], ())
    assert list(Reading().batches(memoryview(raw))) == [[Frame(MESSAGE, 1, b"data", metadata=(("key", "value"),))]]


def test_what_is_no_field_is_told_before_anything_is_written() -> None:
    for frame in (Frame(MESSAGE, 1, object()), Frame(OPEN, 1, method="\udc80"), Frame(OPEN, 1 << 64)):  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError, OverflowError)):
            written([frame], ())


def test_the_name_of_the_form_is_no_length_of_the_form_before_it() -> None:
    (length,) = struct.unpack("<I", FORMAT)
    assert length > BATCH_BYTES_MAX
