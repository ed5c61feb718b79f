"""Payloads to and from ``serve_core.v1.Payload``."""

from __future__ import annotations

from typing import cast

from serve_core.model.payload import Encoding, Payload
from serve_core.v1 import replica_pb2, types_pb2
from serve_core.wire.fields import invalid

NO_ARGUMENTS = Payload(Encoding.MSGPACK, b"\x92\x90\x80")
"""The arguments of a call that was given none: no positional and no keyword ones."""

_ENCODINGS = {int(encoding): encoding for encoding in Encoding}


def encode_payload(payload: Payload) -> types_pb2.Payload:
    """The message of a payload."""
    encoding = cast("types_pb2.PayloadEncoding.ValueType", payload.encoding)
    return types_pb2.Payload(encoding=encoding, data=payload.data, type_name=payload.type_name)


def fill_payload(message: types_pb2.Payload, payload: Payload) -> None:
    """Makes ``message``, a field of another one, that of a payload; see ``fill_load``."""
    encoding, message.data, type_name = payload
    message.encoding = encoding  # type: ignore[assignment]  # it has the numbers of that
    if type_name:
        message.type_name = type_name


def decode_payload(message: types_pb2.Payload, *, field: str = "arguments") -> Payload:
    """The payload of a message; ``field`` is its path, for the error.

    Raises:
        ConfigInvalidError: The encoding is not set or not known.
    """
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise invalid(
            f"{field}.encoding",
            f"{message.encoding} is no known PayloadEncoding; set 1 (MSGPACK), 2 (JSON) or 3 (PROTOBUF)",
        )
    return Payload(encoding, message.data, message.type_name)


def decode_call_arguments(request: replica_pb2.DispatchRequest, *, field: str = "arguments") -> Payload:
    """The arguments of a call; a request without the field has none.

    Raises:
        ConfigInvalidError: The encoding is not set or not known.
    """
    if not request.HasField("arguments"):
        return NO_ARGUMENTS
    message = request.arguments
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        return decode_payload(message, field=field)
    return Payload(encoding, message.data, message.type_name)
