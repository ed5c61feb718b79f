"""The methods of a user's object: their shapes, and how their arguments are read."""

from __future__ import annotations

import collections
import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_core.errors import MethodUnknownError
from serve_core.model.replica import Method, MethodKind
from serve_core.wire.codec import ArgumentDecoder

CALL = "__call__"
HOOKS = frozenset(
    {
        "check_health",
        "is_ready",
        "on_actor_restarted",
        "on_gang_changed",
        "reconfigure",
        "replica_metadata",
        "shutdown",
        "warm_up",
    }
)
"""Methods that serve-core calls by itself; they are not offered to callers."""

ACTOR_HOOKS = frozenset({"restore_state", "save_state"})
"""More of them, in actors."""

_ASYNC_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_SYNC_STREAMS = (collections.abc.Iterator, collections.abc.Generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedMethod:
    """A method ready to be called.

    Attributes:
        function: The bound method.
        signature: Its parameters.
        on_loop: Whether it runs on the event loop; else it runs in a thread.
        stream_parameter: The parameter that takes the stream of requests; empty if none does.
        item_hint: The type of that stream's items.
        decoder: Reads all other arguments.
    """

    name: str
    kind: MethodKind
    function: Callable[..., Any]
    signature: inspect.Signature
    on_loop: bool
    stream_parameter: str
    item_hint: Any
    decoder: ArgumentDecoder

    def bind(
        self, args: list[Any], kwargs: dict[str, Any], stream: Any
    ) -> tuple[tuple[Any, ...] | list[Any], dict[str, Any]]:
        """The arguments with the stream of requests in its place, if the method takes one."""
        if not self.stream_parameter:
            return args, kwargs
        parameters = self.signature.parameters
        others = [parameter for parameter in parameters.values() if parameter.name != self.stream_parameter]
        given = self.signature.replace(parameters=others).bind(*args, **kwargs).arguments
        given[self.stream_parameter] = stream
        bound = inspect.BoundArguments(
            self.signature, collections.OrderedDict((name, given[name]) for name in parameters if name in given)
        )
        return bound.args, bound.kwargs

    @property
    def streams(self) -> bool:
        """Whether it is called through DispatchStream."""
        return self.kind is not MethodKind.UNARY

    @property
    def streams_out(self) -> bool:
        """Whether it gives items, and not one result."""
        return self.kind in (MethodKind.SERVER_STREAM, MethodKind.BIDI_STREAM)


class MethodTable:
    """The methods that callers may name."""

    def __init__(self, methods: Iterable[LoadedMethod] = ()) -> None:
        self._methods = {method.name: method for method in methods}
        self._unary = {name: method for name, method in self._methods.items() if not method.streams}

    @property
    def described(self) -> tuple[Method, ...]:
        """The methods, as others are told of them."""
        return tuple(Method(method.name, method.kind) for method in self._methods.values())

    def find(self, name: str, *, stream: bool) -> LoadedMethod:
        """The method of this name, which is to be called as a stream or not; no name means ``__call__``.

        Raises:
            MethodUnknownError: There is none, or it has the other shape. Names those that there are.
        """
        name = name or CALL
        if not stream and (unary := self._unary.get(name)) is not None:
            return unary
        method = self._methods.get(name)
        if method is not None and method.streams is stream:
            return method
        if method is None:
            known = ", ".join(sorted(self._methods)) or "none"
            message = f"there is no method {name[:100]!r}; the methods are: {known}"
        else:
            right, wrong = ("DispatchStream", "Dispatch") if method.streams else ("Dispatch", "DispatchStream")
            message = f"method {name!r} is {method.kind.name.lower()}: call it through {right}, not {wrong}"
        raise MethodUnknownError(message, details={"method": name[:100]})


def methods_of(target: Any, *, without: Iterable[str] = ()) -> MethodTable:
    """The public methods of an object, or a function as ``__call__``; ``without`` are offered in another way."""
    if inspect.isroutine(target):
        return MethodTable([load_method(CALL, target)])
    hidden = HOOKS | set(without)
    names = [name for name in _names(type(target)) if name not in hidden]
    return MethodTable(load_method(name, getattr(target, name)) for name in names)


def load_method(name: str, function: Callable[..., Any]) -> LoadedMethod:
    """How to call ``function``, from its signature and annotations."""
    signature = inspect.signature(function)
    hints = type_hints(function)
    returns = _origin(hints.get("return"))
    on_loop = is_async(function) or returns in _ASYNC_STREAMS
    stream_parameter = _stream_parameter(signature, hints, _ASYNC_STREAMS if on_loop else _SYNC_STREAMS)
    generates = inspect.isasyncgenfunction(_plain(function)) or inspect.isgeneratorfunction(_plain(function))
    streams_out = generates or returns in (_ASYNC_STREAMS if on_loop else _SYNC_STREAMS)
    others = [parameter for parameter in signature.parameters.values() if parameter.name != stream_parameter]
    item_types = typing.get_args(hints.get(stream_parameter)) if stream_parameter else ()
    return LoadedMethod(
        name=name,
        kind=_kind(streams_in=bool(stream_parameter), streams_out=streams_out),
        function=function,
        signature=signature,
        on_loop=on_loop,
        stream_parameter=stream_parameter,
        item_hint=item_types[0] if item_types else Any,
        decoder=ArgumentDecoder(signature.replace(parameters=others), hints),
    )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await or to iterate over asynchronously."""
    plain = _plain(function)
    return inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)


def type_hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The types of a function's parameters and result; none where its annotations cannot be resolved."""
    try:
        return typing.get_type_hints(_plain(function), include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _plain(function: Any) -> Any:
    """The function inside a bound method, ``functools.partial`` or callable object."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif not inspect.isroutine(function) and callable(function) and not inspect.isclass(function):
            function = type(function).__call__
        else:
            return function


def _names(cls: type) -> list[str]:
    """The names of the public methods, those of the class itself first, and ``__call__`` if it has one."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if base is object or base.__module__ in ("typing", "abc"):
            continue
        for name in vars(base):
            if (name == CALL or not name.startswith("_")) and _is_method(inspect.getattr_static(cls, name)):
                found.setdefault(name)
    return list(found)


def _is_method(member: Any) -> bool:
    return inspect.isroutine(member) and not inspect.isclass(member)


def _stream_parameter(signature: inspect.Signature, hints: Mapping[str, Any], streams: tuple[Any, ...]) -> str:
    return next((name for name in signature.parameters if _origin(hints.get(name)) in streams), "")


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _kind(*, streams_in: bool, streams_out: bool) -> MethodKind:
    if streams_in:
        return MethodKind.BIDI_STREAM if streams_out else MethodKind.CLIENT_STREAM
    return MethodKind.SERVER_STREAM if streams_out else MethodKind.UNARY
