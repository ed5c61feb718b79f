"""The few protobuf messages that load generators send, as bytes: so that none of them needs generated code."""

from __future__ import annotations

ECHO = "/echo.v1.EchoService/Echo"
ITEMS = "/echo.v1.EchoService/Items"


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def echo_request(size: int) -> bytes:
    """An ``echo.v1.EchoRequest`` of so many bytes of data. Its answer has the same bytes."""
    return b"\x0a" + varint(size) + b"x" * size


def items_request(count: int, size: int, every_ms: int) -> bytes:
    """An ``echo.v1.ItemsRequest``."""
    return b"\x08" + varint(count) + b"\x10" + varint(size) + b"\x18" + varint(every_ms)


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it: not compressed, and with its length in front."""
    return b"\0" + len(message).to_bytes(4, "big") + message
