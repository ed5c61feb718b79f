"""The steps of calls as messages, and metadata in them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
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
_BETWEEN = "\n"
"""Between keys and values: neither can have it."""
_legal_key = re.compile(r"[0-9a-z_.-]+").fullmatch


class BadMetadataError(Exception):
    """The other end sent metadata that is none."""


def metadata_fields(metadata: Iterable[Any] | None) -> Fields:
    """Metadata as a frame has it.

    Raises:
        TypeError, ValueError: It is not what metadata may be: also when it is larger than gRPC's limit.
    """
    if not metadata:
        return {}
    texts: list[str] = []
    spelling = 0  # what bytes are longer for being text
    for key, value in metadata:
        if _is_binary(key):
            text = b64encode(value).decode()
            spelling += len(text) - len(value)
        else:
            text = value if isinstance(value, str) else str(value, "ascii")
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"metadata {key!r} has a value that is no printable ASCII")
        texts += (key, text)
    joined = _BETWEEN.join(texts)
    if len(joined) - spelling > METADATA_BYTES:
        raise ValueError(f"metadata of {len(joined) - spelling} bytes is larger than max ({METADATA_BYTES})")
    return {"metadata": joined}


def metadata_of(joined: str) -> Metadata:
    """What ``metadata_fields`` has put into a frame's ``metadata``.

    Raises:
        BadMetadataError: Something else is there.
    """
    if not joined:
        return ()
    texts = iter(joined.split(_BETWEEN))
    pairs = tuple(zip(texts, texts, strict=False))
    return _with_bytes(pairs) if _BINARY in joined else pairs


def _with_bytes(pairs: Metadata) -> Metadata:
    try:
        return tuple((key, b64decode(value, validate=True) if key.endswith(_BINARY) else value) for key, value in pairs)
    except ValueError:
        raise BadMetadataError from None


@lru_cache(maxsize=1024)
def _is_binary(key: str) -> bool:
    """Whether the values of a key are bytes. Raises ValueError if it is no key."""
    if not _legal_key(key):
        raise ValueError(f"metadata key {key!r} has characters other than 0-9 a-z _ . -")
    return key.endswith(_BINARY)
