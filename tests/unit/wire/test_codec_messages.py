"""Messages of protobuf, alone and inside of other values."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from serve_core.errors import ConfigInvalidError
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import decode_value, encode_arguments, encode_value
from tests.unit.wire.codec_rig import by_value, call, json


def test_message_alone_travels_as_such() -> None:
    payload = encode_arguments((Duration(seconds=3),), {})
    assert payload == Payload(Encoding.PROTOBUF, Duration(seconds=3).SerializeToString(), "google.protobuf.Duration")

    def wait(duration: Duration) -> None: ...
    def take(anything: Any) -> None: ...

    for function in (wait, take):
        assert call(function, payload) == ([Duration(seconds=3)], {})
    assert decode_value(payload) == Duration(seconds=3)
    assert encode_value(Duration(seconds=3), like=Encoding.MSGPACK) == payload


def test_message_inside_of_other_values_arrives() -> None:
    value = {"a": [Duration(seconds=3)]}
    assert by_value(value) == value
    assert by_value(value, dict[str, list[Duration]]) == value


def test_message_has_a_form_in_json() -> None:
    payload = encode_value(StringValue(value="x"), like=Encoding.JSON)
    assert payload == Payload(Encoding.JSON, b'"x"')
    proto = descriptor_pb2.DescriptorProto(name="n")
    assert by_value([proto], list[descriptor_pb2.DescriptorProto], like=Encoding.JSON) == [proto]
    with pytest.raises(ConfigInvalidError, match="nope"):
        decode_value(json('{"nope": 1}'), descriptor_pb2.DescriptorProto)


def test_result_of_a_protobuf_call_that_is_no_message_travels_as_msgpack() -> None:
    assert encode_value(3, like=Encoding.PROTOBUF).encoding is Encoding.MSGPACK


@pytest.mark.parametrize(
    ("payload", "hint", "said"),
    [
        (Payload(Encoding.PROTOBUF, b"", "no.such.Type"), Any, "not loaded in this process"),
        (Payload(Encoding.PROTOBUF, b""), Any, "not loaded in this process"),
        (Payload(Encoding.PROTOBUF, b"\xff", "google.protobuf.Duration"), Any, "are no message"),
        (Payload(Encoding.PROTOBUF, b"", "a.B"), Duration, "expected the message google.protobuf.Duration, got a.B"),
    ],
)
def test_bytes_that_are_no_message_are_refused(payload: Payload, hint: Any, said: str) -> None:
    with pytest.raises(ConfigInvalidError, match=said):
        decode_value(payload, hint)


def test_incomplete_message_is_refused() -> None:
    incomplete: Message = descriptor_pb2.UninterpretedOption.NamePart()
    for argument in (incomplete, [incomplete]):
        with pytest.raises(ConfigInvalidError, match="not complete"):
            encode_arguments((argument,), {})
