"""Values to MessagePack, where large arrays are copied once: from where they are to their place among the bytes."""

from __future__ import annotations

import secrets
import struct
import sys
import threading
from typing import Any

import msgspec

from serve_core.wire.arrays import array_block
from serve_core.wire.extensions import EXT_ARRAY, to_msgpack

_EXT_HEADER = struct.Struct(">BIb")
_EXT_32 = 0xC9

_PLACE = secrets.token_bytes(16)
"""Stands for an array while the rest is written. Nobody outside knows it, so that no value has it in it."""

_encoder = msgspec.msgpack.Encoder(enc_hook=to_msgpack)

Blocks = list[tuple[bytes, memoryview]]


class _Packer(threading.local):
    """What a thread packs with. ``blocks`` are the arrays of the value that is being packed."""

    def __init__(self) -> None:
        self.blocks: Blocks = []
        self.encode = msgspec.msgpack.Encoder(enc_hook=self._write).encode

    def _write(self, inner: Any) -> Any:
        block = array_block(inner)
        if block is None:
            return to_msgpack(inner)
        self.blocks.append(block)
        return msgspec.Raw(_PLACE)


_packer = _Packer()


def pack(value: Any) -> bytes:
    """The MessagePack of a value. Raises what msgspec and the values raise."""
    if "numpy" not in sys.modules:  # Then no value can be an array.
        return _encoder.encode(value)
    packer = _packer
    outer, packer.blocks = packer.blocks, []  # Values run code of their own, which may pack others.
    try:
        raw = packer.encode(value)
        return _filled(raw, packer.blocks) if packer.blocks else raw
    finally:
        packer.blocks = outer


def _filled(raw: bytes, blocks: Blocks) -> bytes:
    """The bytes with each array in its place: they are in the order in which they were met."""
    parts: list[bytes | memoryview] = []
    begin, rest = 0, memoryview(raw)
    for head, data in blocks:
        end = raw.index(_PLACE, begin)
        parts += (rest[begin:end], _EXT_HEADER.pack(_EXT_32, len(head) + data.nbytes, EXT_ARRAY), head, data)
        begin = end + len(_PLACE)
    return b"".join((*parts, rest[begin:]))
