"""Reads what was received, and collects everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.ids import NAME_PATTERN
from serve_core.model.payload import Payload
from serve_core.model.share import Share
from serve_core.wire.fields import decode_duration, duration_is_sound
from serve_core.wire.payload import decode_payload

S = TypeVar("S", bound=StrEnum)

MAX_REQUESTS = 1_000_000
"""The most of anything that is counted by requests or failures."""

MAX_DURATION_S = 366 * 86_400
"""The longest time that can be configured, in seconds."""

_NAME_RULE = "must be a letter followed by up to 62 letters, digits, '_' or '-'"


class Reader:
    """Reads fields and collects what is wrong with them.

    Args:
        path: Where the message was, for the paths of violations.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.violations: list[FieldViolation] = []

    def require(self, holds: bool, field: str, description: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Notes a violation unless the condition holds."""
        if not holds:
            self.violations.append(FieldViolation(f"{self._path}.{field}", description))

    def inside(self, field: str) -> Reader:
        """A reader of what is in a field, with violations of its own."""
        return Reader(f"{self._path}.{field}")

    def finish(self, what: str) -> None:
        """Raises what was collected."""
        if self.violations:
            raise ConfigInvalidError(self.violations, what=what)

    def name(self, text: str, field: str) -> str:
        """What something of an application is called."""
        self.require(bool(NAME_PATTERN.fullmatch(text)), field, f"{text!r} {_NAME_RULE}")
        return text

    def import_path(self, text: str, field: str) -> str:
        """MODULE:ATTRIBUTE."""
        module, colon, attribute = text.partition(":")
        sound = bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))
        self.require(sound, field, f"{text!r} must be MODULE:ATTRIBUTE, such as 'my_app.main:App'")
        return text

    def choice(self, number: int, field: str, known: Mapping[S, int], default: S) -> S:
        """One of the values of an enum by its number; 0 is an unset field."""
        if number == 0:
            return default
        found = next((value for value, one in known.items() if one == number), None)
        names = ", ".join(f"{value.name} ({one})" for value, one in known.items())
        self.require(found is not None, field, f"{number} is not one of {names}")
        return found or default

    def optional(self, message: Any, field: str, default: int) -> int:
        """A field with presence."""
        return getattr(message, field) if message.HasField(field) else default

    def count(self, value: int, field: str, *, at_least: int, at_most: int) -> int:
        """A whole number within bounds."""
        self.require(at_least <= value <= at_most, field, f"{value} is not between {at_least} and {at_most}")
        return value

    def seconds(self, message: Any, field: str, default_s: float, *, zero_allowed: bool = False) -> float:
        """A Duration; its name may be a path within the message."""
        name = field.rsplit(".", 1)[-1]
        if not message.HasField(name):
            return default_s
        duration: Duration = getattr(message, name)
        value_s = decode_duration(duration)
        sound = duration_is_sound(duration) and value_s <= MAX_DURATION_S
        self.require(
            sound and (value_s > 0 or (zero_allowed and value_s == 0)),
            field,
            f"{value_s:g} s must be {'0 or more' if zero_allowed else 'more than 0'}, and at most a year",
        )
        return value_s

    def optional_seconds(self, message: Any, field: str) -> float | None:
        """A Duration of more than 0, or None if it is unset; its name may be a path within the message."""
        return self.seconds(message, field, 0.0) if message.HasField(field.rsplit(".", 1)[-1]) else None

    def positive_count(self, value: int, field: str, default: int) -> int:
        """A whole number of at least one; 0 is an unset field."""
        return self.count(value or default, field, at_least=1, at_most=MAX_REQUESTS)

    def share(self, text: str, field: str, default: Share) -> Share:
        """A number of replicas or a percentage of them."""
        found = Share.parse(text) if text else default
        self.require(found is not None, field, f"{text!r} must be a number such as '2', or a percentage such as '25%'")
        return found or default

    def payload(self, message: Any, field: str) -> Payload | None:
        """A Payload, or None if it is unset."""
        if not message.HasField(field):
            return None
        try:
            return decode_payload(getattr(message, field), field=f"{self._path}.{field}")
        except ConfigInvalidError as error:
            self.violations.extend(error.violations)
            return None

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Environment variables."""
        for name, value in env.items():
            self.require(bool(name) and "=" not in name and "\0" not in name, f"env[{name!r}]", "is no variable's name")
            self.require("\0" not in value, f"env[{name!r}]", "its value has a NUL byte")
        return dict(env)
