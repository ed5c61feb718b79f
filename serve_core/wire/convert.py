"""Decoded values to the types that a method's parameters are annotated with."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import types
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message

from serve_core.errors import FieldViolation
from serve_core.wire.arrays import loaded_numpy
from serve_core.wire.extensions import is_pydantic

Converter = Callable[[Any, bool], Any]
"""Takes a decoded value, and whether it came in a binary encoding; raises one of ``CONVERT_ERRORS``."""

CONVERT_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)

_SCALARS = frozenset({bytes, str, int, float, bool, type(None)})
# MessagePack carries bytes as such, so a text is never taken for base64 there.
_BINARY_TYPES = (bytes, bytearray, memoryview)
_PLACE = re.compile(r" - at `\$([^`]*)`$")


def converter(hint: Any) -> Converter | None:
    """What converts values to ``hint``, or None where any value will do."""
    try:
        return _cached(hint)
    except TypeError:  # not hashable, such as Annotated[int, []]
        return _compile(hint)


def converted(convert: Converter, value: Any, *, path: str, binary: bool, found: list[FieldViolation]) -> Any:
    """The value, converted; what is wrong with it is added to ``found``."""
    try:
        return convert(value, binary)
    except Exception as error:  # noqa: BLE001 - validators and constructors of the user's types
        found.extend(violations_of(error, path))
        return value


def violations_of(error: Exception, path: str) -> list[FieldViolation]:
    """Where and what a conversion found wrong, as far as it looked; ``path`` is that of the whole value."""
    text = str(error) or type(error).__name__
    place = _PLACE.search(text)
    if place is not None:
        path, text = path + place[1], text[: place.start()]
    cause = error if hasattr(error, "errors") else error.__cause__
    if cause is not None and is_pydantic_error(cause):
        return [
            FieldViolation(path + "".join(_step(part) for part in found["loc"]), found["msg"])
            for found in cause.errors(include_url=False, include_context=False)  # type: ignore[attr-defined]
        ]
    if not isinstance(error, (*CONVERT_ERRORS, ImportError)):
        text = f"{type(error).__name__}: {text}"
    elif isinstance(error, RecursionError):
        text = "is nested too deeply"
    return [FieldViolation(path, text)]


def is_pydantic_error(error: BaseException) -> bool:
    """Whether pydantic raised it."""
    return type(error).__module__.startswith("pydantic_core") and hasattr(error, "errors")


def _step(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


@functools.lru_cache(maxsize=2048)
def _cached(hint: Any) -> Converter | None:
    return _compile(hint)


def _compile(hint: Any) -> Converter | None:
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, str | TypeVar):
        return None
    if hint in _SCALARS:
        return functools.partial(_to_scalar, hint)
    if isinstance(hint, type) and is_pydantic(hint):
        return functools.partial(_to_model, hint)
    try:
        msgspec.convert(None, hint)
    except (TypeError, NameError) as error:
        return _compile_unknown(hint, str(error))
    except CONVERT_ERRORS:
        pass  # None is no such value, but the type is known
    return functools.partial(_to_known, hint)


def _compile_unknown(hint: Any, why: str) -> Converter | None:
    """For types that msgspec refuses to look at."""
    if get_origin(hint) is Annotated:
        return _compile(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return functools.partial(_to_any_of, hint, [(get_origin(arm) or arm, converter(arm)) for arm in get_args(hint)])
    if hasattr(hint, "__dataclass_fields__") or hasattr(hint, "__struct_fields__"):
        return functools.partial(_to_nothing, why)
    return None


def _to_scalar(cls: type, value: Any, binary: bool) -> Any:  # noqa: FBT001 - see Converter
    return value if type(value) is cls else _to_known(cls, value, binary)


def _to_known(hint: Any, value: Any, binary: bool) -> Any:  # noqa: FBT001
    return msgspec.convert(value, hint, builtin_types=_BINARY_TYPES if binary else None, dec_hook=_to_other)


def _to_model(cls: Any, value: Any, _binary: bool) -> Any:  # noqa: FBT001
    return _validated(cls, value)


def _to_any_of(hint: Any, arms: list[tuple[Any, Converter | None]], value: Any, binary: bool) -> Any:  # noqa: FBT001
    """The value as the first arm that it can be converted to; those that it is of already come first."""
    for _, convert in sorted(arms, key=lambda arm: not (isinstance(arm[0], type) and isinstance(value, arm[0]))):
        if convert is None:
            return value
        with contextlib.suppress(*CONVERT_ERRORS):
            return convert(value, binary)
    raise ValueError(f"Expected `{hint}`, got `{type(value).__name__}`")


def _to_nothing(why: str, _value: Any, _binary: bool) -> Any:  # noqa: FBT001
    raise TypeError(f"its annotated type cannot be decoded: {why}")


def _to_other(hint: Any, value: Any) -> Any:
    """``dec_hook``: types that msgspec does not know by itself."""
    cls = get_origin(hint) or hint
    if isinstance(value, cls):
        return value
    if is_pydantic(cls):
        return _validated(cls, value)
    if issubclass(cls, Message) and isinstance(value, dict):
        return _parsed(cls, value)
    if issubclass(cls, PurePath) and isinstance(value, str):
        return cls(value)
    numpy = loaded_numpy()
    if numpy is not None and issubclass(cls, numpy.ndarray) and isinstance(value, list):
        return numpy.asarray(value, _dtype(hint))
    if numpy is not None and issubclass(cls, numpy.generic) and not isinstance(value, dict | list):
        return cls(value)
    raise TypeError(f"Expected `{cls.__module__}.{cls.__qualname__}`, got `{type(value).__name__}`")


def _validated(cls: Any, value: Any) -> Any:
    # Models are sent by field name among ourselves, and by alias from elsewhere.
    return value if type(value) is cls else cls.model_validate(value, by_alias=True, by_name=True)


def _parsed(cls: type[Message], value: dict[str, Any]) -> Message:
    try:
        return json_format.ParseDict(value, cls())
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None


def _dtype(hint: Any) -> Any:
    """The dtype in ``NDArray[float32]``, or None."""
    arguments = get_args(hint)
    scalar = get_args(arguments[1])[0] if len(arguments) == 2 and get_args(arguments[1]) else None
    return scalar if isinstance(scalar, type) else None
