"""Python values to and from payloads. Nothing is ever pickled."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import msgspec
from google.protobuf.message import Message

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.binding import Binder
from serve_core.wire.convert import CONVERT_ERRORS, converted, converter, violations_of
from serve_core.wire.extensions import from_ext, is_pydantic, message_bytes, parse_message, to_json, to_msgpack
from serve_core.wire.fields import invalid
from serve_core.wire.handle_ref import HandleRef
from serve_core.wire.packing import pack

__all__ = [
    "ArgumentDecoder",
    "HandleRef",
    "decode_arguments",
    "decode_value",
    "encode_arguments",
    "encode_value",
]

Resolve = Callable[[HandleRef], Any]

_MAX_DEPTH = 64
_GARBAGE = (*CONVERT_ERRORS, ImportError)

_msgpack = msgspec.msgpack.Encoder(enc_hook=to_msgpack)
_json = msgspec.json.Encoder(enc_hook=to_json)
_from_msgpack = msgspec.msgpack.Decoder(ext_hook=from_ext)
_from_json = msgspec.json.Decoder()
_CALL = tuple[list[Any], dict[str, Any]]
_call_from_msgpack: msgspec.msgpack.Decoder[_CALL] = msgspec.msgpack.Decoder(_CALL, ext_hook=from_ext)


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    """The payload of a call's arguments. A protobuf message that is the only argument travels as such.

    Raises:
        ConfigInvalidError: Something in them cannot be sent; names its path, and what to send instead.
    """
    if len(args) == 1 and not kwargs and isinstance(args[0], Message):
        return _encode_message(args[0], "arguments[0]")
    try:
        return Payload(Encoding.MSGPACK, pack((args, kwargs)))
    except MemoryError:
        raise
    except Exception:  # values run code of their own, such as the serializers of models
        for index, value in enumerate(args):
            _explain(value, f"arguments[{index}]", _msgpack)
        for name, value in kwargs.items():
            _explain(value, f"arguments.{name}", _msgpack)
        raise


def encode_value(value: Any, *, like: Encoding) -> Payload:
    """The payload of a result or of an item, in the encoding that the call came in.

    A protobuf message travels as such, but to those who speak JSON as JSON. What answers a protobuf message and is
    none travels as MessagePack.

    Raises:
        ConfigInvalidError: Something in it cannot be sent; names its path, and what to send instead.
    """
    if like is not Encoding.JSON and isinstance(value, Message):
        return _encode_message(value, "value")
    encoding = Encoding.JSON if like is Encoding.JSON else Encoding.MSGPACK
    try:
        return Payload(encoding, _json.encode(value) if encoding is Encoding.JSON else pack(value))
    except MemoryError:
        raise
    except Exception:  # values run code of their own
        _explain(value, "value", _json if encoding is Encoding.JSON else _msgpack)
        raise


def decode_value(payload: Payload, hint: Any = Any, *, field: str = "value") -> Any:
    """The value of a payload, converted to the type ``hint``; ``field`` names it in errors.

    Raises:
        ConfigInvalidError: The bytes are not what they are said to be, or no such value.
    """
    try:
        if payload.encoding is Encoding.PROTOBUF:
            return parse_message(payload.type_name, payload.data, _message_class(hint))
        binary = payload.encoding is Encoding.MSGPACK
        value = (_from_msgpack if binary else _from_json).decode(payload.data)
    except _GARBAGE as error:
        raise ConfigInvalidError(violations_of(error, field), what="the payload") from None
    convert = converter(hint)
    if convert is None:
        return value
    found: list[FieldViolation] = []
    value = converted(convert, value, path=field, binary=binary, found=found)
    if found:
        raise ConfigInvalidError(found, what="the payload")
    return value


class ArgumentDecoder:
    """Decodes the arguments of one method.

    Args:
        signature: Of the bound method: without ``self``, and without a parameter that a stream feeds.
        hints: The types of its parameters, from ``typing.get_type_hints``.
    """

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any]) -> None:
        self._binder = Binder(signature, hints)

    def decode(self, payload: Payload, *, resolve: Resolve | None = None) -> _CALL:
        """The arguments by position and by name, converted to the annotated types.

        Args:
            payload: As it was received.
            resolve: Turns references into handles; a handle is never converted. None leaves the references.

        Raises:
            ConfigInvalidError: Lists everything that is wrong, by ``arguments.NAME``.
        """
        handles: list[Any] = []
        try:
            if resolve is None and payload.encoding is Encoding.MSGPACK:  # as nearly all calls
                args, kwargs = _call_from_msgpack.decode(payload.data)
            else:
                args, kwargs = self._decoded(payload, resolve, handles)
        except _GARBAGE as error:
            raise ConfigInvalidError(violations_of(error, "arguments"), what="the call") from None
        # References to deployments stand for objects of any annotated type.
        is_ready = None if resolve is None else functools.partial(_holds_any, handles)
        return self._binder.bind(args, kwargs, binary=payload.encoding is not Encoding.JSON, is_ready=is_ready)

    def _decoded(self, payload: Payload, resolve: Resolve | None, handles: list[Any]) -> _CALL:
        if payload.encoding is Encoding.MSGPACK:
            assert resolve is not None

            def resolved(code: int, data: memoryview) -> Any:
                value = from_ext(code, data)
                if isinstance(value, HandleRef):
                    value = resolve(value)
                    handles.append(value)
                return value

            decoder: msgspec.msgpack.Decoder[_CALL] = msgspec.msgpack.Decoder(_CALL, ext_hook=resolved)
            return decoder.decode(payload.data)
        if payload.encoding is Encoding.PROTOBUF:
            return [parse_message(payload.type_name, payload.data, self._binder.message_class)], {}
        value = _from_json.decode(payload.data) if payload.data else []
        if isinstance(value, dict):
            return [], value
        return (value if isinstance(value, list) else [value]), {}


_decoders: dict[int, tuple[inspect.Signature, Mapping[str, Any], ArgumentDecoder]] = {}
_MAX_DECODERS = 1024


def decode_arguments(
    payload: Payload,
    signature: inspect.Signature,
    hints: Mapping[str, Any],
    *,
    resolve: Resolve | None = None,
) -> _CALL:
    """The arguments of a call by position and by name; see ``ArgumentDecoder``, of which one is kept for each signature.

    Raises:
        ConfigInvalidError: Lists everything that is wrong, by ``arguments.NAME``.
    """
    kept = _decoders.get(id(signature))
    if kept is None or kept[0] is not signature or kept[1] is not hints:
        if len(_decoders) >= _MAX_DECODERS:
            _decoders.clear()
        kept = (signature, hints, ArgumentDecoder(signature, hints))
        _decoders[id(signature)] = kept
    return kept[2].decode(payload, resolve=resolve)


def _message_class(hint: Any) -> type[Message] | None:
    return hint if isinstance(hint, type) and issubclass(hint, Message) else None


def _encode_message(message: Message, path: str) -> Payload:
    try:
        data = message_bytes(message)
    except TypeError as error:
        raise invalid(path, str(error), what="the value") from None
    return Payload(Encoding.PROTOBUF, data, message.DESCRIPTOR.full_name)


def _holds_any(handles: list[Any], value: Any) -> bool:
    """Whether a value is a handle, or a plain container with one inside."""
    if any(value is handle for handle in handles):
        return True
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(_holds_any(handles, inner) for inner in value)


def _explain(value: Any, path: str, encoder: Any) -> None:
    """Raises ConfigInvalidError with the path of the innermost part that cannot be sent; returns if all can be."""
    error = _failure(value, encoder)
    if error is None:
        return
    for _ in range(0 if isinstance(error, RecursionError) else _MAX_DEPTH):
        for inner_path, inner in _parts(value, path):
            inner_error = _failure(inner, encoder)
            if inner_error is not None:
                value, path, error = inner, inner_path, inner_error
                break
        else:
            break
    _refuse(error, path)


def _failure(value: Any, encoder: Any) -> Exception | None:
    try:
        encoder.encode(value)
    except Exception as error:  # noqa: BLE001 - values run code of their own
        return error
    return None


def _refuse(error: Exception, path: str) -> NoReturn:
    if isinstance(error, RecursionError):
        text = "contains itself, or is nested too deeply"
    elif isinstance(error, OverflowError):
        text = "is a whole number beyond 64 bits; send it as text"
    elif isinstance(error, UnicodeEncodeError):
        text = "is a text that is not valid Unicode; send it as bytes"
    else:
        text = str(error) or type(error).__name__
    raise ConfigInvalidError((FieldViolation(path, text),), what="the value to send") from error


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What a value is made of, with paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if len(value) > 1 or inner is not None:
                yield f"{path} (the key {key!r})", {key: None}
            yield f"{path}[{key!r}]", inner
    elif isinstance(value, list | tuple | set | frozenset):
        for index, inner in enumerate(value):
            yield f"{path}[{index}]", inner
    else:
        names = getattr(value, "__dataclass_fields__", None) or getattr(value, "__struct_fields__", None) or ()
        if is_pydantic(type(value)):
            names = type(value).model_fields
        for name in names:
            if hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)
