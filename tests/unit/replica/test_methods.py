"""The shapes of methods, and what is offered of an object."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any, Generic, TypeVar

import pytest

from replica.methods import is_async, load_method, methods_of
from serve_core.errors import MethodUnknownError
from serve_core.model.replica import Method, MethodKind

T = TypeVar("T")


class Base(ABC, Generic[T]):
    @abstractmethod
    def inherited(self) -> None: ...

    def base_only(self) -> None: ...


class Example(Base[int]):
    constant = 5
    inner = type("inner", (), {})

    def inherited(self) -> None: ...

    def __call__(self) -> int:
        return 1

    def _private(self) -> None: ...

    @property
    def prop(self) -> int:
        raise AssertionError("properties are not looked at")

    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    def check_health(self) -> None: ...

    def reconfigure(self, config: Any) -> None: ...

    async def unary(self, items: Iterable[int]) -> list[int]:
        return list(items)

    async def client(self, items: AsyncIterator[int], factor: int = 2) -> int:
        return factor

    async def generator(self) -> AsyncGenerator[int, None]:
        yield 1

    def sync_generator(self):  # type: ignore[no-untyped-def]
        yield 1

    def sync_both(self, items: Iterator[bytes]) -> Iterator[bytes]:
        return items

    def unknown_annotation(self, x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


KINDS = {
    "inherited": MethodKind.UNARY,
    "base_only": MethodKind.UNARY,
    "__call__": MethodKind.UNARY,
    "static": MethodKind.UNARY,
    "of_class": MethodKind.UNARY,
    "unary": MethodKind.UNARY,
    "client": MethodKind.CLIENT_STREAM,
    "generator": MethodKind.SERVER_STREAM,
    "sync_generator": MethodKind.SERVER_STREAM,
    "sync_both": MethodKind.BIDI_STREAM,
    "unknown_annotation": MethodKind.UNARY,
}


def test_public_methods_are_offered_with_their_shapes() -> None:
    table = methods_of(Example())
    assert {method.name: method.kind for method in table.described} == KINDS


def test_methods_that_are_offered_in_another_way_are_left_out() -> None:
    table = methods_of(Example(), without=["unary", "client"])
    assert not {"unary", "client"} & {method.name for method in table.described}


def test_a_function_is_its_own_call() -> None:
    async def greet(name: str) -> str:
        return name

    table = methods_of(greet)
    assert table.described == (Method("__call__", MethodKind.UNARY),)
    assert table.find("", stream=False).on_loop


def test_find_tells_what_there_is_and_which_way_to_call_it() -> None:
    table = methods_of(Example())
    with pytest.raises(MethodUnknownError, match="the methods are: __call__, base_only"):
        table.find("x" * 1000, stream=False)
    with pytest.raises(MethodUnknownError, match="call it through DispatchStream, not Dispatch"):
        table.find("generator", stream=False)
    with pytest.raises(MethodUnknownError, match="call it through Dispatch, not DispatchStream"):
        table.find("unary", stream=True)
    with pytest.raises(MethodUnknownError, match="none"):
        methods_of(object()).find("x", stream=False)


def test_the_stream_takes_its_place_among_the_arguments() -> None:
    method = methods_of(Example()).find("client", stream=True)
    assert method.stream_parameter == "items"
    assert method.item_hint is int
    assert method.bind([3], {}, "stream") == (("stream", 3), {})
    assert method.bind([], {"factor": 4}, "stream") == (("stream", 4), {})
    assert method.bind([], {}, "stream") == (("stream",), {})
    unary = methods_of(Example()).find("unary", stream=False)
    assert unary.bind([1], {"a": 2}, None) == ([1], {"a": 2})


def test_asynchrony_is_seen_through_wrappers() -> None:
    async def function() -> None: ...

    class Callable:
        async def __call__(self) -> None: ...

    assert is_async(functools.partial(function))
    assert is_async(Callable())
    assert is_async(Example().generator)
    assert not is_async(Example().inherited)
    assert load_method("x", functools.partial(function)).on_loop
