"""What the translators share: times, enums, and the path of what is wrong."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.ids import RevisionId

E = TypeVar("E", bound=IntEnum)

_NANOS = 1_000_000_000
_DURATION_LIMIT_S = 315_576_000_000  # of google.protobuf.Duration: about 10,000 years


def encode_duration(seconds: float) -> Duration:
    """Seconds as a Duration, to the nanosecond."""
    message = Duration()
    fill_duration(message, seconds)
    return message


def fill_duration(message: Duration, seconds: float) -> None:
    """Makes ``message``, a field of another one, that of so many seconds; see ``fill_load``."""
    whole, nanos = divmod(round(seconds * _NANOS), _NANOS)
    if seconds < 0 and nanos:
        whole, nanos = whole + 1, nanos - _NANOS  # both parts of a Duration have the same sign
    message.seconds, message.nanos = whole, nanos


def encode_optional_duration(seconds: float | None) -> Duration | None:
    """Seconds as a Duration, and None as an unset one."""
    return None if seconds is None else encode_duration(seconds)


def decode_duration(message: Duration) -> float:
    """A Duration in seconds: the float that is nearest, so that what was encoded comes back."""
    return (message.seconds * _NANOS + message.nanos) / _NANOS


def duration_is_sound(message: Duration) -> bool:
    """Whether the parts of a Duration agree and lie within its limits."""
    seconds, nanos = message.seconds, message.nanos
    return abs(seconds) <= _DURATION_LIMIT_S and abs(nanos) < _NANOS and not (seconds * nanos < 0)


def encode_time(seconds: float) -> Timestamp:
    """Seconds since the Unix epoch as a Timestamp, to the microsecond that a float holds."""
    message = Timestamp()
    fill_time(message, seconds)
    return message


def fill_time(message: Timestamp, seconds: float) -> None:
    """Makes ``message``, a field of another one, that of a time; see ``fill_load``."""
    micros = round(seconds * 1_000_000)
    message.seconds, message.nanos = micros // 1_000_000, micros % 1_000_000 * 1000


def decode_time(message: Timestamp) -> float:
    """A Timestamp in seconds since the Unix epoch; 0 if it is unset."""
    return (message.seconds * _NANOS + message.nanos) / _NANOS


def encode_optional_time(seconds: float | None) -> Timestamp | None:
    """Seconds since the Unix epoch as a Timestamp, and None as an unset one."""
    return None if seconds is None else encode_time(seconds)


def decode_optional_time(message: Message, field: str) -> float | None:
    """A Timestamp that is a field of a message, in seconds since the Unix epoch; None if it is unset."""
    return decode_time(getattr(message, field)) if message.HasField(field) else None


def optional_revision(text: str) -> RevisionId | None:
    """A revision's id, and None for an empty text."""
    return RevisionId(text) if text else None


def decode_enum(cls: type[E], number: int, field: str) -> E:
    """The member of ``cls`` with this number.

    Raises:
        ConfigInvalidError: It has none: the field is unset, or its sender is newer.
    """
    try:
        return cls(number)
    except ValueError:
        known = ", ".join(f"{member.value} ({member.name})" for member in cls)
        raise invalid(field, f"{number} is not one of {known}", what="the message") from None


def invalid(field: str, description: str, *, what: str = "the request") -> ConfigInvalidError:
    """The error for one wrong field."""
    return ConfigInvalidError((FieldViolation(field, description),), what=what)
