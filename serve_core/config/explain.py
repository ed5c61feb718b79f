"""Turns what pydantic finds into sentences: the path of a field, what is wrong, and what was probably meant."""

from __future__ import annotations

import typing
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve_core.errors import FieldViolation
from serve_core.options import unknown_name

Location = tuple[str | int, ...]


def path_text(location: Sequence[str | int]) -> str:
    """A path as people write it: ``applications[0].name``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text or "(the whole file)"


def _model_of(annotation: object) -> type[BaseModel] | None:
    """The model inside an annotation such as ``list[Model]`` or ``Model | None``."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        found = _model_of(argument)
        if found is not None:
            return found
    return None


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel]:
    """The model whose field ``location`` ends in."""
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = None if field is None else _model_of(field.annotation)
        if inner is None:
            return model
        model = inner
    return model


def describe(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One sentence on what is wrong, with what was given where it is short."""
    location: Location = error["loc"]
    kind = error["type"]
    if kind == "extra_forbidden":
        return unknown_name(str(location[-1]), _model_at(model, location).model_fields, what="key")
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    message = error["msg"][:1].lower() + error["msg"][1:]
    if kind in ("model_type", "dict_type"):
        message = "should be a mapping of names to values"
    if kind == "string_pattern_mismatch":
        message = _pattern_message(str(location[-1]))
    given = repr(error["input"])
    return f"{message}, not {given}" if len(given) <= 60 else message


def _pattern_message(field: str) -> str:
    if field == "import_path":
        return "should be MODULE:ATTRIBUTE, such as 'my_app.main:app'"
    return "should be a letter followed by up to 62 letters, digits, '_' or '-'"


def violations(error: ValidationError, model: type[BaseModel]) -> list[FieldViolation]:
    """Everything that is wrong, by path."""
    return [FieldViolation(path_text(found["loc"]), describe(found, model)) for found in error.errors()]
