"""Values and handles of users, there and back; and what cannot be sent."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import pathlib
import typing
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import pytest

from serve_core.errors import ConfigInvalidError
from serve_core.model.payload import Encoding
from serve_core.wire.codec import HandleRef, decode_value, encode_arguments, encode_value
from tests.unit.wire.codec_rig import Box, Exploding, Item, Leaf, Tree, by_value, call, json, one, refusal


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


class Text(str):
    __slots__ = ()


class Greeter:
    def greet(self, name: str) -> str:
        return name


def cycle() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)


TREE = Tree([Leaf(np.arange(6).reshape(2, 3), NOW)], {"a": Box(3, {"x"})}, (1, "z"))


@pytest.mark.parametrize("like", [Encoding.MSGPACK, Encoding.JSON])
@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, Any),
        (True, bool),
        (-(2**63), int),
        (2**64 - 1, Any),
        (1.5, float),
        ("ä🎈", str),
        (b"\x00\xff", bytes),
        (bytearray(b"x"), bytearray),
        ([1, "a", None], Any),
        ({"a": [1]}, Any),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (frozenset({1}), frozenset[int]),
        (Point(1, 2.0), Point),
        (Colour.RED, Colour),
        (Level.LOW, Level),
        (NOW, dt.datetime),
        (NOW.replace(tzinfo=None), dt.datetime),
        (NOW.date(), dt.date),
        (dt.timedelta(days=-1, microseconds=3), dt.timedelta),
        (uuid.UUID(int=7), uuid.UUID),
        (decimal.Decimal("1.10"), decimal.Decimal),
        (pathlib.PurePosixPath("/a/b"), pathlib.PurePosixPath),
        (Box(1), Box),
        (Item(no=1, parts=[Item(no=2)]), Item),
        ([Item(no=1)], list[Item]),
        ({"a": 1}, Mapping[str, int]),
        ([1], list[int] | np.ndarray),
        (None, np.ndarray | int | None),
        (Item(no=1), Item | Box),
        (Item(no=1), Annotated[Item, "note"]),
    ],
    ids=lambda part: None if isinstance(part, Encoding) else str(part)[:40],
)
def test_typed_value_arrives_as_it_was(value: Any, hint: Any, like: Encoding) -> None:
    decoded = by_value(value, hint, like)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        (np.float32(1.5), 1.5),
        (np.float64(1.5), 1.5),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.bytes_(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (Level.LOW, 1),
    ],
    ids=lambda part: type(part).__name__,
)
def test_untyped_value_arrives_in_plain_terms(value: Any, plain: Any) -> None:
    decoded = by_value(value)
    assert decoded == plain
    assert type(decoded) is type(plain)


def test_tree_of_types_arrives_whole() -> None:
    decoded = by_value(TREE, Tree)
    assert isinstance(decoded, Tree)
    np.testing.assert_array_equal(decoded.leaves[0].image, TREE.leaves[0].image)
    assert decoded.leaves[0].when == NOW
    assert (decoded.boxes, decoded.extra) == (TREE.boxes, TREE.extra)


def test_models_are_read_by_name_and_alias_and_written_to_json_by_alias() -> None:
    assert decode_value(json('{"no": 3}'), Item).number == 3
    assert decode_value(json('{"number": 3}'), Item).number == 3
    assert b'"no":3' in encode_value(Item(no=3), like=Encoding.JSON).data


class Handle:
    """Stands for a deployment, and says so."""

    def __handle_reference__(self) -> HandleRef:
        return HandleRef("shop", "search")


def test_handles_travel_as_references_and_are_resolved_whatever_the_annotation() -> None:
    def build(
        greeter: Greeter, more: dict[str, list[Greeter]], *rest: Greeter, size: int = 1, **named: Greeter
    ) -> None: ...

    reference = HandleRef("shop", "search")
    payload = encode_arguments((Handle(), {"a": [reference]}, reference), {"size": 3, "last": reference})
    args, kwargs = call(build, payload, resolve=lambda ref: f"handle to {ref.application}.{ref.deployment}")
    expected = "handle to shop.search"
    assert args == [expected, {"a": [expected]}, expected]
    assert kwargs == {"size": 3, "last": expected}


def test_other_arguments_are_converted_beside_handles() -> None:
    def build(greeter: Greeter, box: Box, size: int) -> None: ...

    payload = encode_arguments((HandleRef("a", "b"), Box(1), "x"), {})
    with pytest.raises(ConfigInvalidError) as caught:
        call(build, payload, resolve=lambda ref: ref)
    assert [violation.field for violation in caught.value.violations] == ["arguments.size"]


def test_references_stay_where_nobody_resolves_them() -> None:
    payload = encode_arguments((HandleRef("a", "b"),), {})
    assert decode_value(payload) == [[HandleRef("a", "b")], {}]
    assert call(one, payload) == ([HandleRef("a", "b")], {})


def test_reference_is_a_value() -> None:
    assert {HandleRef("a", "b")} == {HandleRef("a", "b")}
    assert HandleRef("a", "b") != HandleRef("a", "c")
    assert HandleRef("a", "b") != ("a", "b")


def test_handle_has_no_form_in_json() -> None:
    assert refusal([HandleRef("a", "b")], like=Encoding.JSON).field == "value[0]"


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        (object(), "value", "builtins.object cannot be sent; send plain values"),
        ([{"a": (1, lambda: 0)}], "value[0]['a'][1]", "function"),
        ({1: 1 + 2j}, "value[1]", "complex"),
        ({object: 1}, "value (the key <class 'object'>)", "type"),
        (2**64, "value", "beyond 64 bits"),
        (["\ud800"], "value[0]", "not valid Unicode"),
        (cycle(), "value", "contains itself"),
        (Leaf(np.zeros(1), typing.cast("dt.datetime", object())), "value.when", "object"),
        (Box(1, {typing.cast("str", 1j)}), "value.tags[0]", "complex"),
        ({"m": Exploding.model_construct(value=1)}, "value['m']", "KeyError"),
        (iter([1]), "value", "iterator"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_what_cannot_be_sent_is_named_by_its_path(value: Any, field: str, said: str) -> None:
    violation = refusal(value)
    assert violation.field == field
    assert said in violation.description


def test_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ConfigInvalidError, match=r"arguments\[1\]\.leaves\[0\]\.image: a numpy array of objects"):
        encode_arguments((1, Tree([Leaf(np.array([None]), NOW)], {})), {})
    with pytest.raises(ConfigInvalidError, match=r"arguments\.image: a value of type builtins\.object"):
        encode_arguments((1,), {"size": 1, "image": object()})


def test_nothing_is_pickled() -> None:
    class Tempting:
        def __reduce__(self) -> Any:
            raise AssertionError("pickled")

        __getstate__ = __reduce__

    assert "cannot be sent" in refusal(Tempting()).description
