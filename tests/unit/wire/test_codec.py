"""What can be sent arrives as it was; what cannot is refused with its path; what is received is never trusted."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import pathlib
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import pydantic
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from numpy.typing import NDArray

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.arrays import array_to_json
from serve_core.wire.codec import (
    ArgumentDecoder,
    HandleRef,
    decode_arguments,
    decode_value,
    encode_arguments,
    encode_value,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


class Box(msgspec.Struct):
    size: int
    tags: set[str] = set()


@dataclasses.dataclass
class Leaf:
    image: np.ndarray
    when: dt.datetime


@dataclasses.dataclass
class Tree:
    leaves: list[Leaf]
    boxes: dict[str, Box]
    extra: tuple[int, str] = (0, "")


class Item(pydantic.BaseModel):
    number: int = pydantic.Field(alias="no")
    price: decimal.Decimal = decimal.Decimal("0.10")
    parts: list[Item] = []


class Text(str):
    __slots__ = ()


class Exploding(pydantic.BaseModel):
    value: int

    @pydantic.field_validator("value")
    @classmethod
    def _explode(cls, value: int) -> int:
        raise KeyError(value)

    @pydantic.field_serializer("value")
    def _refuse(self, value: int) -> int:
        raise KeyError(value)


@dataclasses.dataclass
class Unsupported:
    either: np.ndarray | pathlib.Path


class Greeter:
    def greet(self, name: str) -> str:
        return name


def by_value(value: Any, hint: Any = Any, like: Encoding = Encoding.MSGPACK) -> Any:
    return decode_value(encode_value(value, like=like), hint)


def call(function: Callable[..., Any], payload: Payload, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    return decode_arguments(payload, inspect.signature(function), typing.get_type_hints(function), **options)


def json(text: str) -> Payload:
    return Payload(Encoding.JSON, text.encode())


def wrong(function: Callable[..., Any], payload: Payload) -> dict[str, str]:
    with pytest.raises(ConfigInvalidError) as caught:
        call(function, payload)
    return {violation.field: violation.description for violation in caught.value.violations}


def refusal(value: Any, like: Encoding = Encoding.MSGPACK) -> FieldViolation:
    with pytest.raises(ConfigInvalidError) as caught:
        encode_value(value, like=like)
    (violation,) = caught.value.violations
    return violation


def cycle() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


# Values

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


def test_numpy_scalars_are_made_where_they_are_asked_for() -> None:
    decoded = by_value(1.5, np.float32)
    assert type(decoded) is np.float32


# Arrays


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


# Protobuf messages


def test_message_alone_travels_as_such() -> None:
    payload = encode_arguments((Duration(seconds=3),), {})
    assert payload == Payload(Encoding.PROTOBUF, Duration(seconds=3).SerializeToString(), "google.protobuf.Duration")

    def wait(duration: Duration) -> None: ...
    def take(anything: Any) -> None: ...

    for function in (wait, take):
        assert call(function, payload) == ([Duration(seconds=3)], {})
    assert decode_value(payload) == Duration(seconds=3)
    assert encode_value(Duration(seconds=3), like=Encoding.MSGPACK) == payload


def test_message_inside_of_other_values_arrives() -> None:
    value = {"a": [Duration(seconds=3)]}
    assert by_value(value) == value
    assert by_value(value, dict[str, list[Duration]]) == value


def test_message_has_a_form_in_json() -> None:
    payload = encode_value(StringValue(value="x"), like=Encoding.JSON)
    assert payload == Payload(Encoding.JSON, b'"x"')
    proto = descriptor_pb2.DescriptorProto(name="n")
    assert by_value([proto], list[descriptor_pb2.DescriptorProto], like=Encoding.JSON) == [proto]
    with pytest.raises(ConfigInvalidError, match="nope"):
        decode_value(json('{"nope": 1}'), descriptor_pb2.DescriptorProto)


def test_result_of_a_protobuf_call_that_is_no_message_travels_as_msgpack() -> None:
    assert encode_value(3, like=Encoding.PROTOBUF).encoding is Encoding.MSGPACK


@pytest.mark.parametrize(
    ("payload", "hint", "said"),
    [
        (Payload(Encoding.PROTOBUF, b"", "no.such.Type"), Any, "not loaded in this process"),
        (Payload(Encoding.PROTOBUF, b""), Any, "not loaded in this process"),
        (Payload(Encoding.PROTOBUF, b"\xff", "google.protobuf.Duration"), Any, "are no message"),
        (Payload(Encoding.PROTOBUF, b"", "a.B"), Duration, "expected the message google.protobuf.Duration, got a.B"),
    ],
)
def test_bytes_that_are_no_message_are_refused(payload: Payload, hint: Any, said: str) -> None:
    with pytest.raises(ConfigInvalidError, match=said):
        decode_value(payload, hint)


def test_incomplete_message_is_refused() -> None:
    incomplete: Message = descriptor_pb2.UninterpretedOption.NamePart()
    for argument in (incomplete, [incomplete]):
        with pytest.raises(ConfigInvalidError, match="not complete"):
            encode_arguments((argument,), {})


# Handles


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


# What cannot be sent


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


# Binding


def method(image: bytes, /, size: int = 1, *, mode: str = "fast") -> None: ...
def needs(image: bytes, *, mode: str) -> None: ...
def nothing() -> None: ...
def takes_all(first: int, *rest: int, **named: float) -> None: ...
def one(value: Any) -> None: ...
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


# Garbage


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
