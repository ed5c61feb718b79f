"""Arguments of a call, bound to a method's signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.wire.convert import Converter, converter, violations_of

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_TEXT_CHARS = 300

IsReady = Callable[[Any], bool]


class Binder:
    """Checks and converts the arguments of one method: everything that can be decided before a call is.

    Args:
        signature: Of the bound method: without ``self``.
        hints: The types of its parameters, from ``typing.get_type_hints``.
    """

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any]) -> None:
        parameters = list(signature.parameters.values())
        untyped = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        self._text = str(inspect.Signature(untyped))[:_TEXT_CHARS]
        self._positional = [(p.name, converter(hints.get(p.name, Any))) for p in parameters if p.kind in _BY_POSITION]
        self._named = {p.name: converter(hints.get(p.name, Any)) for p in parameters if p.kind in _BY_NAME}
        self._required = {
            p.name for p in parameters if p.default is p.empty and p.kind in (*_BY_POSITION, p.KEYWORD_ONLY)
        }
        self._rest = _of_kind(parameters, hints, inspect.Parameter.VAR_POSITIONAL)
        rest_named = _of_kind(parameters, hints, inspect.Parameter.VAR_KEYWORD)
        self._takes_any_name = rest_named is not None
        self._rest_named = None if rest_named is None else rest_named[1]
        # With exactly this many arguments by position and none by name there is nothing to check.
        named_only = self._required - {name for name, _ in self._positional}
        self._simple_count = -1 if named_only else len(self._positional)
        self._first_hint = hints.get(parameters[0].name) if parameters else None

    @property
    def message_class(self) -> type[Message] | None:
        """The protobuf message that the first parameter takes, if it is annotated with one."""
        hint = self._first_hint
        return hint if isinstance(hint, type) and issubclass(hint, Message) else None

    def bind(
        self, args: list[Any], kwargs: dict[str, Any], *, binary: bool, is_ready: IsReady | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, converted to the annotated types.

        Args:
            args: By position.
            kwargs: By name.
            binary: Whether they came in an encoding that carries bytes as such.
            is_ready: Says of a value that it, or something in it, is as it should be whatever the annotation.

        Raises:
            ConfigInvalidError: Lists everything that is wrong, by ``arguments.NAME``.
        """
        found: list[FieldViolation] = []
        if kwargs or len(args) != self._simple_count:
            found.extend(self._check_shape(args, kwargs))
        for index, value in enumerate(args):
            name, convert = self._positional[index] if index < len(self._positional) else self._rest_at(index)
            if convert is not None and not (is_ready is not None and is_ready(value)):
                try:
                    args[index] = convert(value, binary)
                except Exception as error:  # noqa: BLE001 - validators and constructors of the user's types
                    found.extend(violations_of(error, f"arguments.{name}"))
        for name, value in kwargs.items():
            convert = self._named.get(name, self._rest_named)
            if convert is not None and not (is_ready is not None and is_ready(value)):
                try:
                    kwargs[name] = convert(value, binary)
                except Exception as error:  # noqa: BLE001
                    found.extend(violations_of(error, f"arguments.{name}"))
        if found:
            raise ConfigInvalidError(found, what="the call")
        return args, kwargs

    def _rest_at(self, index: int) -> tuple[str, Converter | None]:
        """The name and converter of an argument beyond the named ones."""
        if self._rest is None:
            return "", None
        return f"{self._rest[0]}[{index - len(self._positional)}]", self._rest[1]

    def _check_shape(self, args: list[Any], kwargs: dict[str, Any]) -> list[FieldViolation]:
        """What is missing, too much, doubled or unknown."""
        found = []
        takes = f"the method takes {self._text}"
        if len(args) > len(self._positional) and self._rest is None:
            found.append(FieldViolation("arguments", f"{len(args)} positional arguments are too many; {takes}"))
        given = {name for name, _ in self._positional[: len(args)]}
        positional_only = {name for name, _ in self._positional} - self._named.keys()
        for name in kwargs:
            if name in self._named and name in given:
                found.append(FieldViolation(f"arguments.{name}", "is given twice, by position and by name"))
            elif name in positional_only and not self._takes_any_name:
                found.append(FieldViolation(f"arguments.{name}", f"can be given by position only; {takes}"))
            elif name not in self._named and not self._takes_any_name:
                found.append(FieldViolation(f"arguments.{name}", f"is not known{_hint(name, self._named)}; {takes}"))
        have = given | (kwargs.keys() - positional_only if self._takes_any_name else kwargs.keys())
        missing = [name for name in self._order() if name in self._required and name not in have]
        found.extend(FieldViolation(f"arguments.{name}", f"is missing; {takes}") for name in missing)
        return found

    def _order(self) -> list[str]:
        return [name for name, _ in self._positional] + [
            name for name in self._named if name not in {name for name, _ in self._positional}
        ]


def _of_kind(
    parameters: list[inspect.Parameter], hints: Mapping[str, Any], kind: Any
) -> tuple[str, Converter | None] | None:
    return next(((p.name, converter(hints.get(p.name, Any))) for p in parameters if p.kind is kind), None)


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
