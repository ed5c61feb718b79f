"""Reads the YAML file: strictly, and with the line and column of everything that is wrong, at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from serve_core.config.explain import Location, describe, path_text
from serve_core.config.model import ServeFile
from serve_core.errors import ConfigInvalidError, FieldViolation

_MAX_BYTES = 4 * 1024 * 1024
_MAX_DEPTH = 50
_MAX_NODES = 100_000

Marks = dict[Location, tuple[int, int]]
M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader; as in YAML 1.2, only true and false are booleans and there are no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_file(path: Path) -> ServeFile:
    """The content of a file of applications, checked.

    Raises:
        ConfigInvalidError: The file cannot be read, or lists everything in it that is wrong, each with its place.
    """
    return load_model(path, ServeFile)


def load_model(path: Path, model: type[M]) -> M:
    """A file's content, checked.

    Raises:
        ConfigInvalidError: The file cannot be read, or lists everything in it that is wrong, each with its place.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigInvalidError([FieldViolation(str(path), "is larger than 4 MiB")], what="the file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigInvalidError([FieldViolation(str(path), str(reason))], what="the file") from None
    return _load(text, model, source=str(path))


def load_text(text: str, *, source: str) -> ServeFile:
    """The applications that ``text`` describes, checked; ``source`` names it in messages.

    Raises:
        ConfigInvalidError: Lists everything that is wrong, each with its place.
    """
    return _load(text, ServeFile, source=source)


def _load(text: str, model: type[M], *, source: str) -> M:
    """The content of ``text``, checked.

    Raises:
        ConfigInvalidError: Lists everything that is wrong, each with its place.
    """
    value, marks, doubled = _parse(text, source=source)
    if value is None:
        needed = ", ".join(f"'{name}'" for name in model.model_fields)
        raise ConfigInvalidError([FieldViolation(source, f"is empty: it needs {needed}")], what="the file")
    try:
        content = model.model_validate(value)
    except ValidationError as error:
        listed = [
            (marks.get(_known(detail["loc"], marks), (1, 1)), detail["loc"], describe(detail, model))
            for detail in error.errors()
        ]
        wrong = [_violation(source, mark, location, said) for mark, location, said in sorted(listed, key=_by_place)]
        raise ConfigInvalidError(doubled + wrong, what=source) from None
    if doubled:
        raise ConfigInvalidError(doubled, what=source)
    return content


def _by_place(entry: tuple[tuple[int, int], Location, str]) -> tuple[int, int]:
    return entry[0]


def _violation(source: str, mark: tuple[int, int], location: Location, description: str) -> FieldViolation:
    return FieldViolation(f"{source}:{mark[0]}:{mark[1]}: {path_text(location)}", description)


def _known(location: Location, marks: Marks) -> Location:
    """The longest part of ``location`` that the file has: what is missing is reported at what should hold it."""
    while location and location not in marks:
        location = location[:-1]
    return location


def _parse(text: str, *, source: str) -> tuple[Any, Marks, list[FieldViolation]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        marks: Marks = {}
        doubled: list[FieldViolation] = []
        if node is not None:
            _walk(node, (), marks, doubled, source, depth=0)
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark is not None else source
        raise ConfigInvalidError([FieldViolation(place, f"is no YAML: {error.problem}")], what=source) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigInvalidError([FieldViolation(source, f"is no YAML: {error}")], what=source) from None
    return value, marks, doubled


def _walk(
    node: yaml.Node, location: Location, marks: Marks, doubled: list[FieldViolation], source: str, *, depth: int
) -> None:
    """Notes where everything stands, and keys that are given twice."""
    marks.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    if depth > _MAX_DEPTH or len(marks) > _MAX_NODES:
        raise yaml.YAMLError(f"it is nested more than {_MAX_DEPTH} levels deep, or has more than {_MAX_NODES} values")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*location, index), marks, doubled, source, depth=depth + 1)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            place = (*location, name)
            mark = (key.start_mark.line + 1, key.start_mark.column + 1)
            if name in seen:
                doubled.append(_violation(source, mark, place, "is given twice"))
            seen.add(name)
            marks[place] = mark
            _walk(value, place, marks, doubled, source, depth=depth + 1)
