"""The steps of calls as messages, and metadata in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from serve_core.link.core.limits import METADATA_BYTES
from serve_core.runtime.served_context import Metadata
from serve_core.v1 import link_pb2

OPEN = link_pb2.LINK_STEP_OPEN
MESSAGE = link_pb2.LINK_STEP_MESSAGE
HALF_CLOSE = link_pb2.LINK_STEP_HALF_CLOSE
CANCEL = link_pb2.LINK_STEP_CANCEL
HEADERS = link_pb2.LINK_STEP_HEADERS
STATUS = link_pb2.LINK_STEP_STATUS
CREDIT = link_pb2.LINK_STEP_CREDIT
PING = link_pb2.LINK_STEP_PING
PONG = link_pb2.LINK_STEP_PONG
GOODBYE = link_pb2.LINK_STEP_GOODBYE

Frame = link_pb2.LinkFrame
Fields = dict[str, Any]
"""A frame's fields by name, but for the call's number: cheaper to add to a batch than a frame is."""

_BINARY = "-bin"
_legal_key = re.compile(r"[0-9a-z_.-]+").fullmatch


def metadata_fields(metadata: Iterable[Any] | None) -> Fields:
    """Metadata as a frame has it.

    Raises:
        TypeError, ValueError: It is not what metadata may be: also when it is larger than gRPC's limit.
    """
    if not metadata:
        return {"bare": True}
    texts: list[str] = []
    binaries: list[link_pb2.LinkBinary] = []
    size = 0
    for key, value in metadata:
        size += len(key) + len(value)
        if _is_binary(key):
            binaries.append(link_pb2.LinkBinary(key=key, value=value))
            continue
        text = value if isinstance(value, str) else value.decode()
        if not (text.isascii() and text.isprintable()):
            raise ValueError(f"metadata {key!r} has a value that is no printable ASCII")
        texts += (key, text)
    if size > METADATA_BYTES:
        raise ValueError(f"metadata of {size} bytes is larger than max ({METADATA_BYTES})")
    return {"metadata": texts, "binary_metadata": binaries} if binaries else {"metadata": texts}


def metadata_of(frame: Frame) -> Metadata:
    """What ``metadata_fields`` has put into a frame."""
    if frame.bare:  # A look at a field that may be repeated costs more than all the others.
        return ()
    texts = list(frame.metadata)
    pairs: list[tuple[str, str | bytes]] = list(zip(texts[::2], texts[1::2], strict=False))
    if frame.binary_metadata:
        pairs += [(binary.key, binary.value) for binary in frame.binary_metadata]
    return tuple(pairs)


@lru_cache(maxsize=1024)
def _is_binary(key: str) -> bool:
    """Whether the values of a key are bytes. Raises ValueError if it is no key."""
    if not _legal_key(key):
        raise ValueError(f"metadata key {key!r} has characters other than 0-9 a-z _ . -")
    return key.endswith(_BINARY)
