"""numpy arrays to and from bytes. numpy is imported only when there is an array."""

from __future__ import annotations

import math
import re
import struct
import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

_KINDS = "biufcmMSU"
_DTYPE = re.compile(rf"[<>|=][{_KINDS}][0-9]{{1,9}}(\[[0-9]{{0,9}}[A-Za-z]{{1,2}}\])?")
_COPY_BYTES = 4096
_BLOCK_BYTES_MIN = 64 * 1024
_BLOCK_BYTES_MAX = 2**32 - 1024
_BIN_32 = struct.Struct(">BI")

_encoder = msgspec.msgpack.Encoder()
_EMPTY_BYTES = len(_encoder.encode(b""))
_decoder = msgspec.msgpack.Decoder(tuple[str, list[int], memoryview])


def loaded_numpy() -> Any:
    """numpy if this process has imported it, else None: then no value can be an array."""
    return sys.modules.get("numpy")


def pack_array(array: np.ndarray[Any, Any]) -> bytes:
    """``[dtype, shape, raw bytes in C order]`` as MessagePack; the dtype is numpy's text, with its byte order.

    Raises:
        TypeError: The array's dtype is not one of plain numbers, times or fixed-length texts.
    """
    array = _plain(array)
    raw = array.tobytes() if array.nbytes <= _COPY_BYTES or not array.flags.c_contiguous else _bytes_of(array)
    return _encoder.encode((array.dtype.str, array.shape, raw))


def array_block(value: Any) -> tuple[bytes, memoryview] | None:
    """What ``pack_array`` makes of a large array, in two parts: the beginning, and the array's own memory. None for all else,
    and for an array that is not as it is in memory.

    Raises:
        TypeError: As ``pack_array``.
    """
    if not isinstance(value, loaded_numpy().ndarray) or not _BLOCK_BYTES_MIN <= value.nbytes <= _BLOCK_BYTES_MAX:
        return None
    array = _plain(value)
    if not array.flags.c_contiguous:
        return None
    head = _encoder.encode((array.dtype.str, array.shape, b""))
    return head[:-_EMPTY_BYTES] + _BIN_32.pack(0xC6, array.nbytes), _bytes_of(array)


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array that can be sent, without the ways of subclasses, such as matrices."""
    check_dtype(array.dtype)
    if hasattr(array, "mask"):
        raise TypeError("a masked array cannot be sent; send array.filled() and array.mask apart")
    plain: np.ndarray[Any, Any] = loaded_numpy().asarray(array)
    return plain


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view("u1").data


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuses what raw bytes cannot carry.

    Raises:
        TypeError: Says what to do instead.
    """
    if dtype.kind == "O":
        raise TypeError("a numpy array of objects cannot be sent; give it a numeric or text dtype with astype()")
    if dtype.names is not None:
        raise TypeError("a structured numpy array cannot be sent; send its fields as a dict of arrays")
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise TypeError(f"a numpy array of dtype {dtype} cannot be sent; give it a standard dtype with astype()")


def unpack_array(data: memoryview) -> np.ndarray[Any, Any]:
    """The array of ``pack_array``'s bytes: aligned, writable, and independent of ``data``.

    Raises:
        ValueError: The bytes are not those of an array.
        ImportError: This process has no numpy.
    """
    text, shape, raw = _decoder.decode(data)
    if not _DTYPE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no dtype that is sent")
    import numpy as np

    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r} is no dtype: {error}") from None
    if dtype.itemsize == 0 or any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != raw.nbytes:
        raise ValueError(f"{raw.nbytes} bytes are no array of shape {tuple(shape)} and dtype {text}")
    if raw.nbytes == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def array_to_json(array: np.ndarray[Any, Any]) -> Any:
    """An array as nested lists, for readers of JSON; times as ISO 8601.

    Raises:
        TypeError: The dtype has no form in JSON.
    """
    check_dtype(array.dtype)
    if array.dtype.kind == "c":
        raise TypeError("complex numbers have no form in JSON; send their real and imaginary parts")
    return (array.astype("U") if array.dtype.kind in "mM" else array).tolist()


def scalar_to_python(value: np.generic) -> Any:
    """A numpy scalar as Python's own type.

    Raises:
        TypeError: Python has no exact type for it.
    """
    if value.dtype.kind not in "biufSU" or isinstance(result := value.item(), type(value)):
        raise TypeError(f"a numpy scalar of dtype {value.dtype} cannot be sent; send it in an array, or as text")
    return result
