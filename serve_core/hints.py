"""What a method returns, by its annotations."""

from __future__ import annotations

import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Hashable, Iterable, Iterator
from functools import lru_cache
from typing import Any, cast

_STREAMS = (AsyncGenerator, AsyncIterator, AsyncIterable, Generator, Iterator, Iterable)


def result_hint(target: type[Any] | None, method: str, *, item: bool) -> Any:
    """The type of a method's result, or of each ``item`` that it streams; Any where it cannot be known."""
    return Any if target is None else _hint(cast("Hashable", target), method or "__call__", item)


def return_hint(function: Any) -> Any:
    """What a function's annotation says that it returns; Any where it says nothing that can be resolved."""
    try:
        return typing.get_type_hints(function, include_extras=True).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any


@lru_cache(maxsize=4096)
def _hint(target: Hashable, method: str, item: bool) -> Any:  # noqa: FBT001 - lru_cache is fastest by position
    function = getattr(target, method, None)
    if function is None:
        return Any
    hint = return_hint(function)
    if not item:
        return hint
    return (typing.get_args(hint) or (Any,))[0] if typing.get_origin(hint) in _STREAMS else Any
