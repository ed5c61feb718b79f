"""Which handler serves a method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import grpc

from serve_core.runtime.served_context import Metadata


class CallDetails(NamedTuple):
    """What generic handlers and interceptors get: see ``grpc.HandlerCallDetails``."""

    method: str
    invocation_metadata: Metadata


Find = Callable[[str, Metadata], Any]
"""Finds the handler of a call of ``/package.Service/Method`` with these headers; None if it serves no such method."""


class Finder(grpc.GenericRpcHandler):
    """A generic handler that our servers ask without an object made for each call."""

    @abstractmethod
    def find(self, method: str, metadata: Metadata) -> Any:
        """The handler of a call of ``/package.Service/Method`` with these headers; None if it serves no such method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """As ``find``, for servers that know no other."""
        return self.find(handler_call_details.method, handler_call_details.invocation_metadata)


def _ask(handler: Any, method: str, metadata: Metadata) -> Any:
    return handler.service(CallDetails(method, metadata))


class MethodTable:
    """The handlers of a server. Those that name their service are asked for its methods only, and first."""

    def __init__(self) -> None:
        self._methods: dict[str, Any] = {}
        self._named: dict[str, list[Find]] = {}
        self._generic: list[Find] = []

    def add_generic(self, handlers: Iterable[Any]) -> None:
        """Adds handlers that know by themselves what they serve, after those that were added before."""
        for handler in handlers:
            find = handler.find if isinstance(handler, Finder) else partial(_ask, handler)
            if isinstance(handler, grpc.ServiceRpcHandler):
                self._named.setdefault(f"/{handler.service_name()}", []).append(find)
            else:
                self._generic.append(find)

    def add_methods(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the methods of one service."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    def find(self, method: str, metadata: Metadata) -> Any:
        """The handler of a call of ``/package.Service/Method`` with these headers; None if nothing serves it."""
        handler = self._methods.get(method)
        if handler is not None:
            return handler
        named = self._named.get(method.rpartition("/")[0])
        for find in self._generic if named is None else (*named, *self._generic):
            handler = find(method, metadata)
            if handler is not None:
                return handler
        return None
