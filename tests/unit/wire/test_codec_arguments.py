"""Arguments of methods: what fits them, what does not and where, and garbage."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import typing
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest

from serve_core.errors import ConfigInvalidError
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import ArgumentDecoder, decode_arguments, decode_value, encode_arguments
from tests.unit.wire.codec_rig import Exploding, Item, Tree, call, json, one


@dataclasses.dataclass
class Unsupported:
    either: np.ndarray | pathlib.Path


def wrong(function: Callable[..., Any], payload: Payload) -> dict[str, str]:
    with pytest.raises(ConfigInvalidError) as caught:
        call(function, payload)
    return {violation.field: violation.description for violation in caught.value.violations}


def method(image: bytes, /, size: int = 1, *, mode: str = "fast") -> None: ...


def needs(image: bytes, *, mode: str) -> None: ...


def nothing() -> None: ...


def takes_all(first: int, *rest: int, **named: float) -> None: ...


def named_only(*, key: int) -> None: ...


def default_and_named(a: int = 1, *, key: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (method, (b"x",), {}),
        (method, (b"x", 2), {}),
        (method, (b"x",), {"size": 2, "mode": "slow"}),
        (needs, (b"x",), {"mode": "m"}),
        (needs, (), {"image": b"x", "mode": "m"}),
        (nothing, (), {}),
        (takes_all, (1, 2, 3), {"a": 1.5}),
        (named_only, (), {"key": 1}),
    ],
)
def test_arguments_that_fit_are_bound(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert call(function, encode_arguments(args, kwargs)) == (list(args), kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "fields"),
    [
        (method, (), {}, {"arguments.image": "is missing; the method takes (image, /, size=1, *, mode='fast')"}),
        (method, (), {"image": b"x"}, {"arguments.image": "by position only"}),
        (method, (b"x", 1, 2), {}, {"arguments": "3 positional arguments are too many"}),
        (method, (b"x", 1), {"size": 2}, {"arguments.size": "given twice"}),
        (method, (b"x",), {"sise": 2}, {"arguments.sise": "did you mean 'size'?"}),
        (method, (1, "2"), {"mode": 3}, {"arguments.image": "bytes", "arguments.size": "int", "arguments.mode": "str"}),
        (needs, (b"x",), {}, {"arguments.mode": "is missing"}),
        (needs, (), {"x": 1}, {"arguments.image": "missing", "arguments.mode": "missing", "arguments.x": "not known"}),
        (nothing, (1,), {}, {"arguments": "too many"}),
        (takes_all, (), {}, {"arguments.first": "is missing"}),
        (takes_all, (1, 2, "x"), {"a": "y"}, {"arguments.rest[1]": "int", "arguments.a": "float"}),
        (default_and_named, (1,), {}, {"arguments.key": "is missing"}),
        (one, (), {}, {"arguments.value": "is missing; the method takes (value)"}),
    ],
)
def test_arguments_that_do_not_fit_are_all_listed(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], fields: dict[str, str]
) -> None:
    found = wrong(function, encode_arguments(args, kwargs))
    assert set(found) == set(fields)
    for field, said in fields.items():
        assert said in found[field]


def test_paths_lead_into_arguments() -> None:
    def grow(tree: Tree, item: Item, items: list[Item]) -> None: ...

    text = """{"tree": {"leaves": [{"image": [1], "when": 5}], "boxes": {}},
               "item": {"no": "x", "parts": [{"no": {}}]}, "items": [{"no": 1}, {"no": []}]}"""
    assert set(wrong(grow, json(text))) == {
        "arguments.tree.leaves[0].when",
        "arguments.item.no",
        "arguments.item.parts[0].no",
        "arguments.items[1].no",
    }


def test_json_arguments() -> None:
    assert call(method, json('["eA==", 2]')) == ([b"x", 2], {})
    assert call(method, json('"eA=="')) == ([b"x"], {})
    assert call(needs, json('{"image": "eA==", "mode": "m"}')) == ([], {"image": b"x", "mode": "m"})
    assert call(nothing, json("")) == ([], {})
    assert call(one, json("null")) == ([None], {})


def test_text_is_never_taken_for_bytes_in_msgpack() -> None:
    assert "bytes" in wrong(method, encode_arguments(("eA==",), {}))["arguments.image"]


def test_type_that_cannot_be_decoded_says_so() -> None:
    def take(value: Unsupported) -> None: ...

    found = wrong(take, encode_arguments((Unsupported(np.zeros(1)),), {}))
    assert "its annotated type cannot be decoded" in found["arguments.value"]


def test_types_that_say_nothing_about_the_form_are_left_alone() -> None:
    def take(a: typing.TypeVar("T"), b: object, c: Annotated[Any, []], d: np.ndarray | pathlib.Path) -> None: ...  # type: ignore[valid-type]

    args, _ = call(take, encode_arguments((1, [2], {"x": 3}, pathlib.Path("/p")), {}))
    assert args == [1, [2], {"x": 3}, pathlib.Path("/p")]


def test_value_of_none_of_several_types() -> None:
    def take(a: np.ndarray | pathlib.Path) -> None: ...

    assert "Expected" in wrong(take, encode_arguments((3,), {}))["arguments.a"]


def test_exception_of_the_users_validator_is_a_violation() -> None:
    def take(value: Exploding) -> None: ...

    assert wrong(take, json('{"value": {"value": 1}}')) == {"arguments.value": "KeyError: 1"}


def test_decoder_of_a_signature_is_kept() -> None:
    signature, hints = inspect.signature(method), typing.get_type_hints(method)
    payload = encode_arguments((b"x",), {})
    assert decode_arguments(payload, signature, hints) == decode_arguments(payload, signature, hints)
    assert decode_arguments(payload, signature, {"image": Any}) == ([b"x"], {})
    assert ArgumentDecoder(signature, hints).decode(payload) == ([b"x"], {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\x91\x80\x01",
        b"\xd9\x01\xff",
        b"\xd4\x05a",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x92\x90",
        b"\x92\x90\x90",
        b"\x92\x90\x81\x01\x02",
        b"\x93\x90\x80\x80",
        b"\x92\x91\xd4\x02\xff\x80",
        b"\x92\x91\xd4\x03\xff\x80",
        b"\x92\x90\x80\x00",
    ],
    ids=lambda data: data[:8].hex(),
)
def test_garbage_for_arguments_is_refused(data: bytes) -> None:
    for encoding in Encoding:
        with pytest.raises(ConfigInvalidError) as caught:
            call(named_only, Payload(encoding, data))
        assert caught.value.violations[0].field.startswith("arguments")


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b"\xff", b"nan", b'{"a":1}x'])
def test_garbage_for_json_is_refused(data: bytes) -> None:
    for read in (lambda payload: call(one, payload), decode_value):
        with pytest.raises(ConfigInvalidError):
            read(Payload(Encoding.JSON, data))
