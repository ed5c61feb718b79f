"""``decode(encode(x)) == x``, and no bytes whatever bring the decoder down."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.load import Load
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import HandleRef, decode_arguments, decode_value, encode_arguments, encode_value
from serve_core.wire.errors import encode_error
from serve_core.wire.metadata import format_load, parse_load

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
values = st.recursive(
    scalars | st.builds(HandleRef, st.just("a"), st.just("b")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=12,
)
dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes()
    | npst.unsigned_integer_dtypes()
    | npst.floating_dtypes(sizes=(16, 32, 64))
    | npst.complex_number_dtypes(sizes=(64, 128))
    | npst.datetime64_dtypes()
    | npst.timedelta64_dtypes()
    | npst.unicode_string_dtypes(min_len=1)
    | npst.byte_string_dtypes(min_len=1)
)
arrays = npst.arrays(dtypes, npst.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4))


def anything(*args: Any, **kwargs: Any) -> None:
    """Takes any arguments."""


def typed(image: np.ndarray, size: int = 1) -> None:
    """Takes two arguments."""


@given(values)
def test_values_survive(value: Any) -> None:
    assert decode_value(encode_value(value, like=Encoding.MSGPACK)) == value


@given(st.lists(values, max_size=3), st.dictionaries(st.text("abc", min_size=1), values, max_size=3))
def test_arguments_survive(args: list[Any], kwargs: dict[str, Any]) -> None:
    payload = encode_arguments(args, kwargs)
    assert decode_arguments(payload, inspect.signature(anything), {}) == (args, kwargs)


@given(arrays, st.randoms(use_true_random=False))
def test_arrays_survive_in_any_layout(array: np.ndarray[Any, Any], random: Any) -> None:
    axes = list(range(array.ndim))
    random.shuffle(axes)
    view = array.transpose(axes)[..., :: random.choice([1, -1, 2])] if axes else array
    decoded = decode_value(encode_value(view, like=Encoding.MSGPACK), np.ndarray)
    assert decoded.dtype == view.dtype
    assert decoded.shape == view.shape
    assert decoded.tobytes() == view.tobytes()


def decodes_or_is_refused(payload: Payload) -> None:
    for read in (
        lambda: decode_arguments(payload, inspect.signature(anything), {}),
        lambda: decode_arguments(payload, inspect.signature(typed), {"image": np.ndarray, "size": int}),
        lambda: decode_value(payload),
        lambda: decode_value(payload, dict[str, list[int]]),
    ):
        try:
            read()
        except ConfigInvalidError:
            continue


@given(st.sampled_from(Encoding), st.binary(max_size=64), st.sampled_from(["", "google.protobuf.Duration", "\0"]))
@settings(max_examples=300)
def test_garbage_is_refused_and_nothing_else(encoding: Encoding, data: bytes, type_name: str) -> None:
    decodes_or_is_refused(Payload(encoding, data, type_name))


@given(st.lists(values | arrays, min_size=1, max_size=3), st.data())
@settings(max_examples=300)
def test_sound_bytes_that_are_damaged_are_refused_or_read(args: list[Any], data: st.DataObject) -> None:
    raw = bytearray(encode_arguments(args, {}).data)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(Payload(Encoding.MSGPACK, bytes(raw[: data.draw(st.integers(0, len(raw)))])))
    decodes_or_is_refused(Payload(Encoding.MSGPACK, bytes(raw)))


@given(st.builds(Load, *[st.integers(0, 2**32 - 1)] * 3))
def test_loads_survive_as_text(load: Load) -> None:
    assert parse_load(format_load(load)) == load


@given(st.lists(st.builds(FieldViolation, st.text(), st.text()), max_size=50), st.text())
def test_errors_of_any_text_fit_into_trailers(violations: list[FieldViolation], what: str) -> None:
    encoded = encode_error(ConfigInvalidError(violations, what=what))
    assert sum(len(value) for _, value in encoded.trailing_metadata) < 6 * 1024
    assert len(encoded.message.encode()) <= 1024
