"""What the environment of a process chooses for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from serve_core.errors import ConfigInvalidError, FieldViolation

T = TypeVar("T", bound=StrEnum)


class Choice(Generic[T]):
    """One of an enumeration, as an environment variable names it. Processes that this one starts inherit the variable.

    Args:
        variable: Its name.
        default: What is chosen where it is not set.
    """

    def __init__(self, variable: str, default: T) -> None:
        self.variable = variable
        self._default = default
        self._chosen = default

    @property
    def chosen(self) -> T:
        """What this process uses."""
        return self._chosen

    def choose(self, environ: Mapping[str, str]) -> None:
        """Has this process use what the variable names, and the default if it is not set.

        Raises:
            ConfigInvalidError: It names none.
        """
        kinds = type(self._default)
        text = environ.get(self.variable, self._default)
        if text not in tuple(kinds):
            names = " or ".join(kinds)
            raise ConfigInvalidError(
                [FieldViolation(self.variable, f"{text!r} must be {names}")], what="the environment"
            )
        self._chosen = kinds(text)
