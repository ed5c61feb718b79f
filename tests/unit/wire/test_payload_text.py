"""Payloads as text: what people can read is shown, and nothing ever fails."""

from __future__ import annotations

import pytest

from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import HandleRef, encode_arguments, encode_value
from serve_core.wire.payload_text import payload_text


def test_plain_values_are_shown() -> None:
    assert payload_text(encode_value({"rate": 0.5}, like=Encoding.MSGPACK)) == "{'rate': 0.5}"
    assert payload_text(Payload(Encoding.JSON, b"[1, null]")) == "[1, None]"


def test_what_only_the_users_process_can_decode_has_its_size() -> None:
    shown = payload_text(encode_arguments([HandleRef("app", "inner")], {"size": 3}))
    assert shown.startswith("[[(")
    assert shown.endswith(" bytes)], {'size': 3}]")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (Payload(Encoding.MSGPACK, b"\xc1"), "(msgpack, 1 bytes)"),
        (Payload(Encoding.JSON, b"{"), "(json, 1 bytes)"),
        (Payload(Encoding.JSON, b'"\xff"'), "(json, 3 bytes)"),
        (Payload(Encoding.JSON, b"[" * 4000 + b"]" * 4000), "(json, 8000 bytes)"),
        (Payload(Encoding.PROTOBUF, b"\x00", "a.B"), "(a.B, 1 bytes)"),
        (Payload(Encoding.JSON, b"[" * 2000 + b"]" * 2000), "(json, 4000 bytes)"),
    ],
)
def test_what_cannot_be_shown_has_its_size(payload: Payload, expected: str) -> None:
    assert payload_text(payload) == expected
