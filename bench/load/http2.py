"""As much of HTTP/2 as a client needs that sends requests it knows beforehand, and reads no headers: bytes in, bytes out.

A generator whose calls cost a few microseconds can offer a load that the fastest server here cannot take, from the same
machine, with the send times that a schedule wants; a client library in Python costs more per call than what it measures.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
FIRST_WINDOW_BYTES = 65_535
WINDOW_BYTES = 1 << 30
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4

FIRST_DYNAMIC = 62
"""The number of the header that a table got last (RFC 7541, 2.3.3)."""

_HEAD = struct.Struct(">BHBBI")
_SETTING = struct.Struct(">HI")
_STATIC = {(":method", "POST"): 3, (":scheme", "http"): 6}

Headers = Sequence[tuple[str, str]]


class Frame(NamedTuple):
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame as it is sent. The payload is of 16 KiB at most, which every peer takes."""
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def opening() -> bytes:
    """What a client sends first: no pushes, and windows that never hold up what it is sent."""
    settings = _SETTING.pack(0x2, 0) + _SETTING.pack(INITIAL_WINDOW_SIZE, WINDOW_BYTES)
    return PREFACE + frame(SETTINGS, 0, 0, settings) + window_update(WINDOW_BYTES - FIRST_WINDOW_BYTES)


def window_update(size: int) -> bytes:
    """Lets the peer send so many bytes more on the connection."""
    return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4, "big"))


def settings(payload: bytes) -> dict[int, int]:
    """The peer's settings, by their number."""
    return dict(_SETTING.iter_unpack(payload))


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers for a peer to read, each literal and not to be remembered, so that the block is the same for each request."""
    return b"".join(literal_name(name) + _text(value) for name, value in headers)


def literal_name(name: str) -> bytes:
    """A header that is not to be remembered, without its value."""
    return b"\0" + _text(name)


def grpc_request(authority: str, path: str) -> Headers:
    """The headers of a gRPC request without metadata of its own."""
    return (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )


def grpc_headers(authority: str, path: str) -> bytes:
    """The same as a block."""
    return header_block(grpc_request(authority, path))


class HeaderTable:
    """Headers as a client of gRPC sends them over one connection: each in full the first time, and as a number from then on."""

    def __init__(self) -> None:
        self._known: list[tuple[str, str]] = []

    def block(self, headers: Headers) -> bytes:
        """The headers of the next request."""
        return b"".join(map(self._one, headers))

    def _one(self, header: tuple[str, str]) -> bytes:
        number = _STATIC.get(header) or (FIRST_DYNAMIC + self._known.index(header) if header in self._known else 0)
        if number:
            return bytes((0x80 | number,))
        self._known.insert(0, header)
        return b"\x40" + _text(header[0]) + _text(header[1])


def _text(value: str) -> bytes:
    raw = value.encode()
    return _integer(len(raw)) + raw


def _integer(value: int) -> bytes:
    """A number with a prefix of 7 bits (RFC 7541, 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    found = bytearray((0x7F,))
    value -= 0x7F
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def request(stream: int, block: bytes, body: bytes) -> bytes:
    """A whole request: one HEADERS frame, and one DATA frame that ends it."""
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


def data_of(one: Frame) -> bytes:
    """What a DATA frame carries, without its padding."""
    if one.flags & PADDED:
        return one.payload[1 : len(one.payload) - one.payload[0]]
    return one.payload


class FrameReader:
    """Cuts what is received into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[Frame]:
        """The frames that are whole by now."""
        buffer = self._rest + received if self._rest else received
        at, size = 0, len(buffer)
        while size - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + 9 + (high << 16 | low)
            if end > size:
                break
            yield Frame(kind, flags, stream & 0x7FFFFFFF, buffer[at + 9 : end])
            at = end
        self._rest = buffer[at:]
