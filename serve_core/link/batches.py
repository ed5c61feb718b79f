"""Batches in a stream of bytes: each after its length, four bytes, little-endian, and before what its frames have attached."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

from google.protobuf.message import DecodeError

from serve_core.link.core.limits import BATCH_BYTES, CHUNK_BYTES
from serve_core.link.end import Batch, Data
from serve_core.link.frames import MESSAGE, Frame

BATCH_BYTES_MAX = 8 * BATCH_BYTES
"""A batch that says that it is larger is none of ours."""

_LENGTH = struct.Struct("<I")


class BrokenError(Exception):
    """What arrives are no batches."""


class _Part(NamedTuple):
    """A part of a message, as a frame has it. ``data`` holds for as long as the buffer is not used again."""

    call_id: int
    data: memoryview
    more: bool
    message_bytes: int
    step: int = MESSAGE


class _Parts(NamedTuple):
    """Frames and parts in the place of a batch."""

    frames: Sequence[Frame]


def written(batch: Batch, attached: Sequence[Data]) -> tuple[Data, ...]:
    """The bytes of a batch, in buffers."""
    raw = batch.SerializeToString()
    return (_LENGTH.pack(len(raw)), raw, *attached)


class Reading:
    """Makes batches of the bytes that arrive. What is attached is given on as it comes, and is copied by nobody here.

    Args:
        parse: Makes a batch of bytes.
    """

    __slots__ = ("_frames", "_left", "_parse", "_under_way", "_unread")

    def __init__(self, parse: Callable[[bytes], Batch]) -> None:
        self._parse = parse
        self._unread = bytearray()
        """The beginning of a batch that has not come whole."""
        self._frames: Iterator[Frame] = iter(())
        """The frames of a batch after the one whose attachment is under way."""
        self._under_way: Frame | None = None
        self._left = 0
        """How many bytes are still to come of that."""

    def batches(self, data: memoryview) -> Iterator[Batch]:
        """The batches in what has arrived, as far as they have come. ``data`` is not needed afterwards.

        Raises:
            BrokenError: It is something else.
        """
        begin, size = 0, len(data)
        while begin < size:
            if self._left:
                frames, begin = self._attached(data, begin)
                yield cast("Batch", _Parts(frames))
                continue
            batch, begin = self._next(data, begin)
            if batch is None:
                return
            if batch.attached:
                yield cast("Batch", _Parts(self._until_first(batch)))
            else:
                yield batch

    def _next(self, data: memoryview, begin: int) -> tuple[Batch | None, int]:
        """The batch that begins here, if it has come whole, and where it ends."""
        unread, size = self._unread, len(data)
        if not unread and size - begin >= _LENGTH.size:
            end = begin + _LENGTH.size + _length(data, begin)
            if end <= size:
                return self._parsed(bytes(data[begin + _LENGTH.size : end])), end
        if len(unread) < _LENGTH.size:
            end = min(size, begin + _LENGTH.size - len(unread))
            unread += data[begin:end]
            begin = end
        if len(unread) < _LENGTH.size:
            return None, begin
        whole = _LENGTH.size + _length(unread, 0)
        end = min(size, begin + whole - len(unread))
        unread += data[begin:end]
        if len(unread) < whole:
            return None, end
        raw = bytes(memoryview(unread)[_LENGTH.size :])
        self._unread = bytearray()
        return self._parsed(raw), end

    def _attached(self, data: memoryview, begin: int) -> tuple[list[Frame], int]:
        """What has come of an attachment, with the frames after it if that is all, and where it ends."""
        frame = self._under_way
        assert frame is not None
        end = min(len(data), begin + self._left)
        self._left -= end - begin
        message_bytes = frame.message_bytes if frame.more else frame.attached
        part = cast("Frame", _Part(frame.call_id, data[begin:end], frame.more or self._left > 0, message_bytes))
        if self._left:
            return [part], end
        self._under_way = None
        return [part, *self._until_attached()], end

    def _until_first(self, batch: Batch) -> list[Frame]:
        """The frames of a batch up to the first that has something attached."""
        self._frames = iter(batch.frames)
        frames = self._until_attached()
        if not self._left:
            raise BrokenError("the other end says that a batch has something attached, which has not")
        return frames

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

    def _parsed(self, raw: bytes) -> Batch:
        try:
            return self._parse(raw)
        except DecodeError:
            raise BrokenError("the other end sends what is no batch") from None


def _length(data: Data | bytearray, begin: int) -> int:
    (length,) = _LENGTH.unpack_from(data, begin)
    if length > BATCH_BYTES_MAX:
        raise BrokenError(f"the other end says that a batch has {length} bytes")
    return int(length)
