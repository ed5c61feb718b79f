"""What msgspec does not know by itself: how values of other types are written, and MessagePack's extension types."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Mapping, MappingView, Sequence, Set
from pathlib import PurePath
from typing import Any

import msgspec
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, EncodeError, Message

from serve_core.wire.arrays import array_to_json, loaded_numpy, pack_array, scalar_to_python, unpack_array
from serve_core.wire.handle_ref import HandleRef

EXT_ARRAY = 1
EXT_MESSAGE = 2
EXT_HANDLE = 3

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(tuple[str, bytes])
_handle_decoder = msgspec.msgpack.Decoder(tuple[str, str])

_ADVICE = "send plain values, a dataclass, a msgspec Struct, a pydantic model, a numpy array or a protobuf message"

Write = Callable[[Any], Any]


def to_msgpack(value: Any) -> Any:
    """``enc_hook`` for MessagePack: the value in terms that msgspec knows.

    Raises:
        TypeError: There are none; says what to send instead.
    """
    cls: Any = type(value)
    return _writer(cls, json=False)(value)


def to_json(value: Any) -> Any:
    """``enc_hook`` for JSON, likewise."""
    cls: Any = type(value)
    return _writer(cls, json=True)(value)


def from_ext(code: int, data: memoryview) -> Any:
    """``ext_hook``: the value of an extension.

    Raises:
        ValueError: The bytes are not those of such a value, or it is of no known type.
        ImportError: It is an array and this process has no numpy.
    """
    if code == EXT_ARRAY:
        return unpack_array(data)
    if code == EXT_MESSAGE:
        return parse_message(*_message_decoder.decode(data))
    if code == EXT_HANDLE:
        return HandleRef(*_handle_decoder.decode(data))
    raise ValueError(f"MessagePack extension type {code} is not known")


def message_bytes(message: Message) -> bytes:
    """A message, serialized.

    Raises:
        TypeError: A required field is not set.
    """
    try:
        return message.SerializeToString()
    except EncodeError as error:
        raise TypeError(f"the message {message.DESCRIPTOR.full_name} is not complete: {error}") from None


def parse_message(type_name: str, data: bytes, cls: type[Message] | None = None) -> Message:
    """The message of serialized bytes, as an instance of ``cls``, or of the class that this process has loaded for
    ``type_name``.

    Raises:
        ValueError: There is no such class, it is another, or the bytes are not those of such a message.
    """
    if cls is not None and type_name and type_name != cls.DESCRIPTOR.full_name:
        raise ValueError(f"expected the message {cls.DESCRIPTOR.full_name}, got {type_name}")
    cls = cls or _message_class(type_name)
    try:
        return cls.FromString(data)
    except DecodeError as error:
        raise ValueError(f"the bytes are no message {cls.DESCRIPTOR.full_name}: {error}") from None


def is_pydantic(cls: type) -> bool:
    """Whether ``cls`` is a pydantic model; pydantic is not imported to find out."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


@functools.lru_cache(maxsize=1024)
def _message_class(type_name: str) -> type[Message]:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
    except KeyError:
        raise ValueError(
            f"the message type {type_name!r} is not loaded in this process; import its generated module"
        ) from None
    return message_factory.GetMessageClass(descriptor)


@functools.lru_cache(maxsize=1024)
def _writer(cls: Any, *, json: bool) -> Write:
    """How values of a type are written: decided once for each type."""
    if issubclass(cls, HandleRef) or hasattr(cls, "__handle_reference__"):
        return _refuse_handle if json else _write_handle
    if issubclass(cls, Message):
        return json_format.MessageToDict if json else _write_message
    if is_pydantic(cls):
        return _dump_for_readers if json else _dump
    return _numpy_writer(cls, json=json) or _python_writer(cls) or _refuse


def _numpy_writer(cls: type, *, json: bool) -> Write | None:
    numpy = loaded_numpy()
    if numpy is None:
        return None
    if issubclass(cls, numpy.ndarray):
        return array_to_json if json else _write_array
    return scalar_to_python if issubclass(cls, numpy.generic) else None


def _python_writer(cls: type) -> Write | None:
    """For subclasses of Python's own types, and for what is like them."""
    known: tuple[tuple[tuple[type, ...], Write], ...] = (
        ((str,), str.__str__),
        ((bytes, bytearray), lambda value: bytes(memoryview(value))),
        ((int,), int.__int__),
        ((float,), float.__float__),
        ((PurePath,), str),
        ((Mapping,), lambda value: {key: value[key] for key in value}),
        ((Sequence, Set, MappingView, deque), list),
    )
    return next((write for bases, write in known if issubclass(cls, bases)), None)


def _write_array(value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(EXT_ARRAY, pack_array(value))


def _write_message(value: Message) -> msgspec.msgpack.Ext:
    packed = _encoder.encode((value.DESCRIPTOR.full_name, message_bytes(value)))
    return msgspec.msgpack.Ext(EXT_MESSAGE, packed)


def _write_handle(value: Any) -> msgspec.msgpack.Ext:
    reference = value if isinstance(value, HandleRef) else value.__handle_reference__()
    return msgspec.msgpack.Ext(EXT_HANDLE, _encoder.encode((reference.application, reference.deployment)))


def _refuse_handle(value: Any) -> Any:
    raise TypeError(f"{value!r} has no form in JSON; only callers that speak MessagePack take handles")


def _dump(value: Any) -> Any:
    return value.model_dump()


def _dump_for_readers(value: Any) -> Any:
    return value.model_dump(by_alias=True)


def _refuse(value: Any) -> Any:
    cls = type(value)
    raise TypeError(f"a value of type {cls.__module__}.{cls.__qualname__} cannot be sent; {_ADVICE}")
