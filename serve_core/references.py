"""Finds bound deployments and handles inside arguments, however deep, and puts references in their place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

Replace = Callable[[Any], Any | None]


def replace_references(value: Any, replace: Replace) -> Any:
    """``value`` with everything replaced that ``replace`` gives another value for; the rest is shared, not copied.

    Looks into tuples, lists, dicts, dataclasses and msgspec Structs.
    """
    replaced = replace(value)
    if replaced is not None:
        return replaced
    if isinstance(value, (list, tuple)):
        return _sequence(value, replace)
    if isinstance(value, dict):
        items = {key: replace_references(item, replace) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in value) else value
    names = _field_names(value)
    return value if names is None else _record(value, names, replace)


def _sequence(value: Any, replace: Replace) -> Any:
    items = [replace_references(item, replace) for item in value]
    if all(new is old for new, old in zip(items, value, strict=True)):
        return value
    if hasattr(value, "_fields"):
        return type(value)(*items)
    return tuple(items) if isinstance(value, tuple) else items


def _field_names(value: Any) -> list[str] | None:
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return list(value.__struct_fields__) if isinstance(value, msgspec.Struct) else None


def _record(value: Any, names: list[str], replace: Replace) -> Any:
    items = {name: replace_references(getattr(value, name), replace) for name in names}
    changed = {name: item for name, item in items.items() if item is not getattr(value, name)}
    if not changed:
        return value
    other = copy.copy(value)
    for name, item in changed.items():
        if isinstance(other, msgspec.Struct):
            msgspec.structs.force_setattr(other, name, item)
        else:
            object.__setattr__(other, name, item)
    return other
