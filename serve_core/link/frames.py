"""The steps of calls as both ends of a link have them, whatever carries it, and metadata in them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from serve_core.link.core.limits import METADATA_BYTES
from serve_core.runtime.served_context import Metadata
from serve_core.v1 import link_pb2

OPEN = int(link_pb2.LINK_STEP_OPEN)
MESSAGE = int(link_pb2.LINK_STEP_MESSAGE)
HALF_CLOSE = int(link_pb2.LINK_STEP_HALF_CLOSE)
CANCEL = int(link_pb2.LINK_STEP_CANCEL)
HEADERS = int(link_pb2.LINK_STEP_HEADERS)
STATUS = int(link_pb2.LINK_STEP_STATUS)
CREDIT = int(link_pb2.LINK_STEP_CREDIT)
PING = int(link_pb2.LINK_STEP_PING)
PONG = int(link_pb2.LINK_STEP_PONG)
GOODBYE = int(link_pb2.LINK_STEP_GOODBYE)

Unsigned = Annotated[int, msgspec.Meta(ge=0)]
Texts = tuple[tuple[str, str], ...]


class Frame(msgspec.Struct, array_like=True, gc=False):
    """One step of one call: ``LinkFrame`` of the wire contract, which says what each field means and which a step has.

    In a socket it is an array of these fields, in this order: who changes that changes ``batches.FORMAT``, too. What holds
    a frame holds it for good: nobody changes it.
    """

    step: Unsigned
    call_id: Unsigned = 0
    data: bytes | None = None
    """What arrives attached is a memoryview, which holds until the buffer that it was received into is used again."""
    metadata: Texts = ()
    binary: bool = False
    """Whether values in ``metadata`` may be bytes: those of keys that end in -bin are, in base64."""
    method: str = ""
    timeout_us: Unsigned = 0
    half_close: bool = False
    more: bool = False
    attached: Unsigned = 0
    """A message, or a piece of one: how many bytes of it follow the batch, after those of frames before this one. Only where
    the carrier attaches; there is no data then."""
    message_bytes: Unsigned = 0
    credit: Unsigned = 0
    code: Unsigned = 0
    message: str = ""


_BINARY = "-bin"
_KNOWN_KEYS, _KNOWN_KEY_BYTES, _KNOWN_PAIRS, _KNOWN_VALUES_BYTES = 1024, 256, 64, METADATA_BYTES // 2
_known_keys: set[str] = set()
"""Keys that were found to be legal, and their values to be texts: so many pairs with such keys and values are not too large."""
_legal_key = re.compile(r"[0-9a-z_.-]+").fullmatch


class BadMetadataError(Exception):
    """The other end sent metadata that is none."""


def checked_message(message: Any) -> bytes:
    """A message as a frame has it.

    Raises:
        TypeError: It is not bytes.
    """
    if not isinstance(message, bytes):
        raise TypeError(f"a message has to be bytes, not {type(message).__name__}")
    return message


def metadata_fields(metadata: Iterable[Any] | None) -> tuple[Texts, bool]:
    """Metadata as a frame has it, and whether there may be bytes in it.

    Raises:
        TypeError, ValueError: It is not what metadata may be: also when it is larger than gRPC's limit.
    """
    if not metadata:
        return (), False
    pairs = metadata if metadata.__class__ is tuple else tuple(metadata)
    values = []
    for pair in pairs:
        if pair.__class__ is not tuple:
            return _spelt(pairs)
        key, value = pair
        if value.__class__ is not str or key not in _known_keys:
            return _spelt(pairs)
        values.append(value)
    joined = "".join(values)  # All of it can be looked at together, which is quicker.
    if (
        len(values) > _KNOWN_PAIRS
        or len(joined) > _KNOWN_VALUES_BYTES
        or not (joined.isascii() and joined.isprintable())
    ):
        return _spelt(pairs)
    return pairs, False


def metadata_of(frame: Frame) -> Metadata:
    """What ``metadata_fields`` has put into a frame.

    Raises:
        BadMetadataError: Something else is there.
    """
    pairs = frame.metadata
    if not frame.binary:
        return pairs
    try:
        return tuple((key, b64decode(value, validate=True) if key.endswith(_BINARY) else value) for key, value in pairs)
    except ValueError:
        raise BadMetadataError from None


def _spelt(pairs: Iterable[tuple[str, Any]]) -> tuple[Texts, bool]:
    """As ``metadata_fields``: one by one."""
    texts: list[tuple[str, str]] = []
    size, binary = -1, False
    for key, value in pairs:
        if _is_binary(key):
            binary = True
            text = b64encode(value).decode()
            size += len(value) - len(text)
        else:
            text = value if isinstance(value, str) else str(value, "ascii")
            if not (text.isascii() and text.isprintable()):
                raise ValueError(f"metadata {key!r} has a value that is no printable ASCII")
            if len(key) <= _KNOWN_KEY_BYTES and len(_known_keys) < _KNOWN_KEYS:
                _known_keys.add(key)
        texts.append((key, text))
        size += len(key) + len(text) + 2
    if size > METADATA_BYTES:
        raise ValueError(f"metadata of {size} bytes is larger than max ({METADATA_BYTES})")
    return tuple(texts), binary


def _is_binary(key: str) -> bool:
    """Whether the values of a key are bytes. Raises ValueError if it is no key."""
    if not _legal_key(key):
        raise ValueError(f"metadata key {key!r} has characters other than 0-9 a-z _ . -")
    return key.endswith(_BINARY)
