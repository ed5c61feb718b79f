"""Batches in a stream of bytes, and what is attached to them, wherever the stream is cut."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.link.batches import BATCH_BYTES_MAX, BrokenError, Reading, written
from serve_core.link.core.limits import CHUNK_BYTES
from serve_core.link.end import Batch
from serve_core.link.frames import CREDIT, MESSAGE, OPEN, Frame
from serve_core.v1 import replica_pb2


def batch(*frames: Frame, attached: bool) -> Batch:
    return replica_pb2.LinkRequest(frames=frames, attached=attached)


def bytes_of(*parts: bytes | memoryview) -> bytes:
    return b"".join(parts)


STREAM = bytes_of(
    *written(batch(Frame(call_id=1, step=OPEN, method="/a/b"), attached=False), ()),
    *written(
        batch(
            Frame(call_id=2, step=CREDIT, credit=7),
            Frame(call_id=1, step=MESSAGE, attached=10, more=True, message_bytes=25),
            Frame(call_id=3, step=MESSAGE, data=b"inside"),
            Frame(call_id=1, step=MESSAGE, attached=15),
            Frame(call_id=2, step=CREDIT, credit=8),
            attached=True,
        ),
        (b"0123456789", memoryview(b"...abcdefghijklmno")[3:]),
    ),
    *written(batch(Frame(call_id=1, step=MESSAGE, attached=3), attached=True), (b"end",)),
    *written(batch(Frame(call_id=4, step=CREDIT, credit=9), attached=False), ()),
)


def told(pieces: Iterable[bytes]) -> list[tuple[int, object]]:
    """What is read of a stream in these pieces, in one buffer: credits, and messages once they are whole."""
    reading = Reading(replica_pb2.LinkRequest.FromString)
    buffer = bytearray(len(STREAM))
    found: list[tuple[int, object]] = []
    parts: dict[int, bytes] = {}
    for piece in pieces:
        buffer[: len(piece)] = piece
        for one in reading.batches(memoryview(buffer)[: len(piece)]):
            for frame in one.frames:
                if frame.step != MESSAGE:
                    found.append((frame.call_id, frame.credit or frame.method))
                    continue
                parts[frame.call_id] = parts.get(frame.call_id, b"") + bytes(frame.data)
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


BROKEN = {
    "too long": struct.pack("<I", BATCH_BYTES_MAX + 1),
    "no batch": struct.pack("<I", 3) + b"\xff\xff\xff",
    "nothing attached": bytes_of(*written(batch(Frame(call_id=1, step=CREDIT), attached=True), ())),
    "a piece too large": bytes_of(
        *written(batch(Frame(call_id=1, step=MESSAGE, attached=CHUNK_BYTES + 1), attached=True), ())
    ),
    "to what has no data": bytes_of(*written(batch(Frame(call_id=1, step=CREDIT, attached=4), attached=True), ())),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_batch_is_told(name: str) -> None:
    for cut in (len(BROKEN[name]), 2):
        reading = Reading(replica_pb2.LinkRequest.FromString)
        with pytest.raises(BrokenError):
            _ = [list(reading.batches(memoryview(piece))) for piece in (BROKEN[name][:cut], BROKEN[name][cut:])]
