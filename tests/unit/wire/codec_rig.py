"""Types of users that travel, and how they are sent and received here."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import decode_arguments, decode_value, encode_value


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


class Exploding(pydantic.BaseModel):
    value: int

    @pydantic.field_validator("value")
    @classmethod
    def _explode(cls, value: int) -> int:
        raise KeyError(value)

    @pydantic.field_serializer("value")
    def _refuse(self, value: int) -> int:
        raise KeyError(value)


def by_value(value: Any, hint: Any = Any, like: Encoding = Encoding.MSGPACK) -> Any:
    return decode_value(encode_value(value, like=like), hint)


def call(function: Callable[..., Any], payload: Payload, **options: Any) -> tuple[list[Any], dict[str, Any]]:
    return decode_arguments(payload, inspect.signature(function), typing.get_type_hints(function), **options)


def json(text: str) -> Payload:
    return Payload(Encoding.JSON, text.encode())


def refusal(value: Any, like: Encoding = Encoding.MSGPACK) -> FieldViolation:
    with pytest.raises(ConfigInvalidError) as caught:
        encode_value(value, like=like)
    (violation,) = caught.value.violations
    return violation


def one(value: Any) -> None: ...
