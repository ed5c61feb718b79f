"""Values as the bytes of a store: JSON, so that an operator can read them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from serve_core.errors import StoreUnusableError

T = TypeVar("T")


def encode_record(value: Any) -> bytes:
    """The JSON form of a dataclass of plain fields."""
    return msgspec.json.encode(value, order="deterministic")


def decode_record(key: str, data: bytes, record_type: type[T]) -> T:
    """The value that ``encode_record`` made these bytes from; fields that it did not know yet get their defaults.

    Raises:
        StoreUnusableError: The bytes are not of this type.
    """
    try:
        return msgspec.json.decode(data, type=record_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreUnusableError(
            f"the record '{key}' in the store cannot be read: {error}; "
            "start with the version of serve-core that wrote it, or with an empty --state-dir",
            details={"key": key, "cause": str(error)},
        ) from error
