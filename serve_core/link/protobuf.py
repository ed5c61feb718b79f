"""Frames as the wire contract has them, for a link that gRPC carries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from serve_core.link.frames import BadMetadataError, Frame, Texts
from serve_core.v1 import replica_pb2

Message: TypeAlias = "replica_pb2.LinkRequest | replica_pb2.LinkResponse"
Kind: TypeAlias = "type[replica_pb2.LinkRequest] | type[replica_pb2.LinkResponse]"

_BETWEEN = "\n"
"""Between keys and values: neither can have it."""
_BINARY = "-bin"


def message_of(frames: Iterable[Frame], kind: Kind) -> Message:
    """A batch of frames as one message of this kind."""
    message = kind()
    add = message.frames.add
    for frame in frames:
        add(
            call_id=frame.call_id,
            step=frame.step,
            data=frame.data,
            more=frame.more,
            half_close=frame.half_close,
            method=frame.method,
            timeout_us=frame.timeout_us,
            metadata=_BETWEEN.join([text for pair in frame.metadata for text in pair]) if frame.metadata else "",
            code=frame.code,
            message=frame.message,
            credit=frame.credit,
            message_bytes=frame.message_bytes,
        )
    return message


def frames_of(message: Message) -> list[Frame]:
    """The frames in a message.

    Raises:
        BadMetadataError: There is metadata that is none.
    """
    return [
        Frame(
            step=frame.step,
            call_id=frame.call_id,
            data=frame.data if frame.HasField("data") else None,
            metadata=_pairs(frame.metadata),
            binary=_BINARY in frame.metadata,
            method=frame.method,
            timeout_us=frame.timeout_us,
            half_close=frame.half_close,
            more=frame.more,
            message_bytes=frame.message_bytes,
            credit=frame.credit,
            code=frame.code,
            message=frame.message,
        )
        for frame in message.frames
    ]


def _pairs(joined: str) -> Texts:
    if not joined:
        return ()
    texts = iter(joined.split(_BETWEEN))
    try:
        return tuple(zip(texts, texts, strict=True))
    except ValueError:
        raise BadMetadataError from None
