"""Encoded arguments and results."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Encoding(IntEnum):
    """How the bytes of a payload are to be read; the numbers of ``serve_core.v1.PayloadEncoding``."""

    MSGPACK = 1
    JSON = 2
    PROTOBUF = 3


class Payload(NamedTuple):
    """Arguments of a call, one item of a stream, or a result. See ``serve_core.v1.Payload``."""

    encoding: Encoding
    data: bytes
    type_name: str = ""
