"""Batches in a stream of bytes: each an array of frames in MessagePack, after its length and before what its frames have attached."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from serve_core.link.core.limits import BATCH_BYTES, CHUNK_BYTES
from serve_core.link.end import Data
from serve_core.link.frames import MESSAGE, Frame

FORMAT = b"mp01"
"""Names what follows in the stream. A new form has a new name; a field that is added to the end of frames needs none, if it may
be missing.

As a length, which is what follows in the form before this one, it is more than any batch has."""

BATCH_BYTES_MAX = 8 * BATCH_BYTES
"""A batch that says that it is larger is none of ours."""

_HEAD = struct.Struct("<II")
"""How many bytes the array has, and how many are attached to all of its frames."""


def _plain(value: Any) -> Any:
    """What MessagePack has for a value of a derived type."""
    if isinstance(value, str):
        return "".join((value,))
    if isinstance(value, bytes):
        return bytes(value)
    raise TypeError(f"a frame has no {type(value).__name__}")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(list[Frame]).decode


class BrokenError(Exception):
    """What arrives are no batches."""


def written(frames: Sequence[Frame], attached: Sequence[Data]) -> tuple[Data, ...]:
    """The bytes of a batch, in buffers.

    Raises:
        TypeError, ValueError, OverflowError: A field is none.
    """
    raw = _encode(frames)
    if not attached:
        return (_HEAD.pack(len(raw), 0) + raw,)
    return (_HEAD.pack(len(raw), sum(map(len, attached))) + raw, *attached)


class Reading:
    """Makes batches of the bytes that arrive. What is attached is given on as it comes, and is copied by nobody here."""

    __slots__ = ("_frames", "_left", "_under_way", "_unread")

    def __init__(self) -> None:
        self._unread = bytearray()
        """The beginning of a batch that has not come whole."""
        self._frames: Iterator[Frame] = iter(())
        """The frames of a batch after the one whose attachment is under way."""
        self._under_way: Frame | None = None
        self._left = 0
        """How many bytes are still to come of that."""

    def batches(self, data: memoryview) -> Iterator[list[Frame]]:
        """The frames in what has arrived, as far as they have come. ``data`` is not needed afterwards.

        Raises:
            BrokenError: It is something else.
        """
        begin, size = 0, len(data)
        while begin < size:
            if self._left:
                frames, begin = self._attached(data, begin)
                yield frames
                continue
            if not self._unread and size - begin >= _HEAD.size:  # Nearly all come whole.
                length, attached = _head(data, begin)
                end = begin + _HEAD.size + length
                if end <= size:
                    whole, begin = data[begin + _HEAD.size : end], end
                    yield _parsed(whole) if not attached else self._until_first(_parsed(whole), attached)
                    continue
            begin = self._collect(data, begin)
            if len(self._unread) >= _HEAD.size:
                length, attached = _head(self._unread, 0)
                if len(self._unread) == _HEAD.size + length:
                    raw, self._unread = memoryview(self._unread)[_HEAD.size :], bytearray()
                    yield _parsed(raw) if not attached else self._until_first(_parsed(raw), attached)

    def _collect(self, data: memoryview, begin: int) -> int:
        """Keeps what has come of the batch that begins here or before, and says where that ends."""
        unread = self._unread
        end = begin + _HEAD.size - len(unread)
        if len(unread) < _HEAD.size:
            unread += data[begin:end]
            begin = min(end, len(data))
        if len(unread) >= _HEAD.size:
            length, _ = _head(unread, 0)
            end = begin + _HEAD.size + length - len(unread)
            unread += data[begin:end]
            begin = min(end, len(data))
        return begin

    def _attached(self, data: memoryview, begin: int) -> tuple[list[Frame], int]:
        """What has come of an attachment, with the frames after it if that is all, and where it ends."""
        frame = self._under_way
        assert frame is not None
        end = min(len(data), begin + self._left)
        self._left -= end - begin
        message_bytes = frame.message_bytes if frame.more else frame.attached
        part = Frame(
            MESSAGE,
            frame.call_id,
            cast("bytes", data[begin:end]),
            more=frame.more or self._left > 0,
            message_bytes=message_bytes,
        )
        if self._left:
            return [part], end
        self._under_way = None
        return [part, *self._until_attached()], end

    def _until_first(self, batch: list[Frame], attached: int) -> list[Frame]:
        """The frames of a batch up to the first that has something attached."""
        if attached != sum([frame.attached for frame in batch]):
            raise BrokenError(f"the other end says that a batch has {attached} bytes attached, which has not")
        self._frames = iter(batch)
        return self._until_attached()

    def _until_attached(self) -> list[Frame]:
        """The frames up to the next that has something attached, which is under way then."""
        frames = []
        for frame in self._frames:
            if frame.attached:
                if frame.attached > CHUNK_BYTES or frame.step != MESSAGE:
                    raise BrokenError(f"the other end attaches {frame.attached} bytes")
                self._under_way, self._left = frame, frame.attached
                break
            frames.append(frame)
        return frames


def _parsed(raw: memoryview) -> list[Frame]:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BrokenError("the other end sends what is no batch") from None


def _head(data: Data | bytearray, begin: int) -> tuple[int, int]:
    """How many bytes a batch has, and how many are attached to it."""
    length, attached = _HEAD.unpack_from(data, begin)
    if length > BATCH_BYTES_MAX:
        raise BrokenError(f"the other end says that a batch has {length} bytes")
    return length, attached
