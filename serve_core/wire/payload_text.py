"""Payloads as text, for people."""

from __future__ import annotations

import msgspec

from serve_core.model.payload import Encoding, Payload

_SHOWN_MAX_BYTES = 4096


def payload_text(payload: Payload) -> str:
    """What a small payload of plain values holds; the size of any other. Never fails."""
    size = f"({payload.type_name or payload.encoding.name.lower()}, {len(payload.data)} bytes)"
    if payload.encoding is Encoding.PROTOBUF or len(payload.data) > _SHOWN_MAX_BYTES:
        return size
    try:
        if payload.encoding is Encoding.JSON:
            return repr(msgspec.json.decode(payload.data))
        return repr(msgspec.msgpack.decode(payload.data, ext_hook=_extension))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):
        return size


class _Extension:
    """Stands for what only the user's process can decode."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __repr__(self) -> str:
        return f"({self._size} bytes)"


def _extension(code: int, data: memoryview) -> _Extension:  # noqa: ARG001 - msgspec's signature
    return _Extension(len(data))
