"""Frames: metadata in them, and their form in the wire contract."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_core.link.core.limits import METADATA_BYTES
from serve_core.link.frames import (
    OPEN,
    STATUS,
    BadMetadataError,
    Frame,
    checked_message,
    metadata_fields,
    metadata_of,
)
from serve_core.link.protobuf import frames_of, message_of
from serve_core.v1 import replica_pb2
from serve_core.v1.link_pb2 import LinkFrame

Pair = namedtuple("Pair", "key value")

KEYS = st.from_regex(r"[0-9a-z_.-]{1,20}", fullmatch=True)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
TEXT_PAIRS = st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), TEXTS)
BYTE_PAIRS = st.tuples(KEYS.map("{}-bin".format), st.binary(max_size=40))
METADATA = st.lists(TEXT_PAIRS | BYTE_PAIRS, max_size=6)
COUNTS = st.integers(0, 2**32 - 1)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    texts, binary = metadata_fields(draw(METADATA))
    return Frame(
        draw(st.integers(1, 10)),
        draw(COUNTS),
        draw(st.none() | st.binary(max_size=20)),
        texts,
        binary,
        method=draw(TEXTS),
        timeout_us=draw(COUNTS),
        half_close=draw(st.booleans()),
        more=draw(st.booleans()),
        message_bytes=draw(COUNTS),
        credit=draw(COUNTS),
        code=draw(COUNTS),
        message=draw(TEXTS),
    )


def passed(metadata: Any) -> Any:
    texts, binary = metadata_fields(metadata)
    return metadata_of(Frame(OPEN, 1, metadata=texts, binary=binary))


@given(METADATA)
def test_metadata_is_at_the_other_end_what_it_was(metadata: list[tuple[str, Any]]) -> None:
    assert passed(metadata) == tuple(metadata)
    assert passed(tuple(metadata)) == tuple(metadata)  # Its keys are known by now.


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        ("Upper", "x"),
        ("", "x"),
        ("key", "é"),
        ("key", "line\nfeed"),
        ("key", 5),
        ("key", b"\xff"),
        ("key-bin", "text"),
        ("key", "x" * METADATA_BYTES),
        (b"key", "x"),
        ("key", "x", "y"),
        "k",
    ],
)
def test_what_is_no_metadata_is_refused(bad: Any, known: bool) -> None:
    if known:
        metadata_fields((("key", "value"),))
    with pytest.raises((TypeError, ValueError)):
        metadata_fields((("other", "x"), bad))


def test_all_of_it_together_may_be_as_large_as_one() -> None:
    half = "x" * (METADATA_BYTES // 2 - 4)
    assert passed((("a", half), ("b", half))) == (("a", half), ("b", half))
    for metadata in ((("a", half + "123456789"), ("b", half)), [(str(n), "x" * 100) for n in range(700)]):
        for _ in range(2):
            with pytest.raises(ValueError, match="larger than max"):
                metadata_fields(metadata)


def test_pairs_need_not_be_plain_tuples() -> None:
    assert passed([Pair("key", "value"), ["other", "value"], "kv"]) == (
        ("key", "value"),
        ("other", "value"),
        ("k", "v"),
    )
    assert passed((("key", b"ascii"),)) == (("key", "ascii"),)
    raw = msgspec.msgpack.encode(metadata_fields(("kv", Pair("key", "value")))[0])
    assert msgspec.msgpack.decode(raw) == [["k", "v"], ["key", "value"]]


def test_bytes_that_are_no_base64_are_told() -> None:
    with pytest.raises(BadMetadataError):
        metadata_of(Frame(OPEN, 1, metadata=(("a-bin", "no base64!"),), binary=True))


def test_a_message_is_bytes() -> None:
    assert checked_message(b"x") == b"x"
    for message in ("x", bytearray(b"x"), None, 5):
        with pytest.raises(TypeError):
            checked_message(message)


@given(st.lists(frames(), max_size=3))
def test_the_wire_contract_has_all_of_a_frame(batch: list[Frame]) -> None:
    for kind in (replica_pb2.LinkRequest, replica_pb2.LinkResponse):
        read = frames_of(kind.FromString(message_of(batch, kind).SerializeToString()))
        assert [metadata_of(frame) for frame in read] == [metadata_of(frame) for frame in batch]
        assert [_but_for_binary(frame) for frame in read] == [_but_for_binary(frame) for frame in batch]


def _but_for_binary(frame: Frame) -> Frame:
    return msgspec.structs.replace(frame, binary=False)


def test_a_key_without_a_value_is_no_metadata() -> None:
    message = replica_pb2.LinkRequest(frames=[LinkFrame(call_id=1, metadata="a\nb\nc")])
    with pytest.raises(BadMetadataError):
        frames_of(message)
    assert message_of([Frame(STATUS, 1)], replica_pb2.LinkResponse).frames[0].metadata == ""
