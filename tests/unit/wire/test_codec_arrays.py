"""Arrays of numpy, there and back."""

from __future__ import annotations

import collections
import inspect
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from serve_core.errors import ConfigInvalidError
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.arrays import array_to_json
from serve_core.wire.codec import decode_arguments, decode_value, encode_arguments, encode_value
from serve_core.wire.extensions import to_msgpack
from tests.unit.wire.codec_rig import by_value, refusal


def test_numpy_scalars_are_made_where_they_are_asked_for() -> None:
    decoded = by_value(1.5, np.float32)
    assert type(decoded) is np.float32


class Picture(np.ndarray):
    """An array with a life of its own."""


ARRAYS = [
    np.array(3.5),
    np.zeros((0, 3), np.float16),
    np.arange(24, dtype=np.int32).reshape(2, 3, 4)[:, ::2, ::-1],
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([1, 2, 3], dtype=">i8"),
    np.array([[True, False]]),
    np.array([1 + 2j], dtype=np.complex64),
    np.array(["ä", "bcd"]),
    np.array([b"a", b"bc"]),
    np.array(["2026-01-01T00:00:01", "NaT"], dtype="datetime64[ns]"),
    np.array([5], dtype="timedelta64[25s]"),
    np.random.default_rng(0).random((300, 40)),
    np.random.default_rng(0).random((300, 40))[::3],
    np.ones((40, 40)).view(Picture),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
@pytest.mark.parametrize("hint", [Any, np.ndarray, NDArray[np.float64], np.ndarray | None])
def test_array_arrives_bit_by_bit(array: np.ndarray, hint: Any) -> None:
    decoded = by_value(array, hint)
    assert type(decoded) is np.ndarray
    assert decoded.dtype == array.dtype
    assert decoded.dtype.byteorder == array.dtype.byteorder
    assert decoded.shape == array.shape
    assert decoded.tobytes() == array.tobytes()
    assert decoded.flags.writeable
    assert decoded.flags.aligned


LARGE = np.random.default_rng(0).random((1000, 500))


def test_large_arrays_are_the_same_bytes_as_small_ones_would_be() -> None:
    value = {"a": [1, LARGE, "text", LARGE[:500]], "b": (LARGE.astype("f4"), np.arange(3)), "c": b"x" * 100_000}
    expected = msgspec.msgpack.Encoder(enc_hook=to_msgpack).encode(value)
    assert encode_value(value, like=Encoding.MSGPACK).data == expected


@pytest.mark.parametrize(
    "array", [LARGE, LARGE[:, ::2], np.asfortranarray(LARGE), LARGE.view(Picture), LARGE.astype("M8[ns]")]
)
def test_large_arrays_arrive(array: np.ndarray) -> None:
    decoded = by_value(array, np.ndarray)
    assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_large_arrays_that_cannot_be_sent_are_told_where_they_are() -> None:
    with pytest.raises(ConfigInvalidError, match=r"arguments\[0\]\['a'\]\[1\]: a masked array"):
        encode_arguments(({"a": [LARGE, np.ma.zeros(100_000)]},), {})


def test_a_value_that_packs_others_while_it_is_packed_is_not_mixed_up_with_them() -> None:
    class Mapped(collections.UserDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return encode_value([LARGE[500:]], like=Encoding.MSGPACK).data

    payload = encode_value([LARGE, Mapped({"inner": 1}), LARGE], like=Encoding.MSGPACK)
    first, mapped, last = decode_value(payload)
    inner = decode_value(Payload(Encoding.MSGPACK, mapped["inner"]))
    for array, wanted in ((first, LARGE), (inner[0], LARGE[500:]), (last, LARGE)):
        np.testing.assert_array_equal(array, wanted)


def test_an_array_is_copied_once_by_each_side() -> None:
    """As ``tracemalloc`` has it: numpy and msgspec take their memory where it looks."""
    signature = inspect.signature(lambda array: array)
    payload = encode_arguments((LARGE,), {})
    taken = []
    for act in (lambda: encode_arguments((LARGE,), {}), lambda: decode_arguments(payload, signature, {})):
        tracemalloc.start()
        try:
            kept = act()
            taken.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        del kept
    assert all(LARGE.nbytes <= peak < 1.05 * LARGE.nbytes for peak in taken), taken


def test_array_does_not_go_through_lists() -> None:
    array = np.zeros((64, 64), np.float32)
    assert len(encode_value(array, like=Encoding.MSGPACK).data) < array.nbytes + 64


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([object()]), "array of objects"),
        (np.zeros(2, dtype=[("a", "i4")]), "structured"),
        (np.zeros(2, dtype="V4"), "standard dtype"),
        (np.ma.zeros(2), "masked"),
        (np.datetime64("2026-01-01"), "scalar of dtype datetime64"),
        (np.longdouble(1), "scalar of dtype"),
        (np.complex64(1), "scalar of dtype complex64"),
    ],
    ids=["objects", "structured", "void", "masked", "datetime64", "longdouble", "complex64"],
)
def test_arrays_and_scalars_that_cannot_be_sent_are_refused(array: Any, said: str) -> None:
    violation = refusal({"images": [array]})
    assert violation.field == "value['images'][0]"
    assert said in violation.description


def test_arrays_have_a_form_in_json() -> None:
    assert by_value(np.array([[1, 2]]), like=Encoding.JSON) == [[1, 2]]
    assert array_to_json(np.array(["2026-01-01"], dtype="datetime64[D]")) == ["2026-01-01"]
    decoded = by_value(np.array([[1, 2]]), NDArray[np.float32], like=Encoding.JSON)
    assert decoded.dtype == np.float32
    assert "complex" in refusal(np.array([1j]), like=Encoding.JSON).description


def packed_array(*parts: Any) -> Payload:
    inner = msgspec.msgpack.encode(parts)
    return Payload(Encoding.MSGPACK, msgspec.msgpack.encode(msgspec.msgpack.Ext(1, inner)))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("<f4", [1]),
        ("<f4", [1], b"\0\0\0"),
        ("<f4", [2], b"\0\0\0\0"),
        ("<f4", [-1, -1], b"\0\0\0\0"),
        ("<f4", [2**63, 0], b""),
        ("<f4", [0] * 100, b""),
        ("<f5", [1], b"\0" * 5),
        ("|O8", [1], b"\0" * 8),
        ("O", [1], b"\0" * 8),
        ("<i4,<i4", [1], b"\0" * 8),
        ("|V4", [1], b"\0" * 4),
        ("|S0", [10**15], b""),
        ("<M8[zz]", [1], b"\0" * 8),
        ("<U999999999", [1], b""),
        ("", [0], b""),
        (3, [0], b""),
    ],
    ids=repr,
)
def test_bytes_that_are_no_array_are_refused(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigInvalidError):
        decode_value(packed_array(*parts))
