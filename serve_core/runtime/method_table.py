"""Which handler serves a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import grpc

from serve_core.runtime.served_context import Metadata


class CallDetails(NamedTuple):
    """What generic handlers and interceptors get: see ``grpc.HandlerCallDetails``."""

    method: str
    invocation_metadata: Metadata


class MethodTable:
    """The handlers of a server. Those that name their service are asked for its methods only, and first."""

    def __init__(self) -> None:
        self._methods: dict[str, Any] = {}
        self._named: dict[str, list[Any]] = {}
        self._generic: list[Any] = []

    def add_generic(self, handlers: Iterable[Any]) -> None:
        """Adds handlers that know by themselves what they serve, after those that were added before."""
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self._named.setdefault(handler.service_name(), []).append(handler)
            else:
                self._generic.append(handler)

    def add_methods(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the methods of one service."""
        for name, handler in handlers.items():
            self._methods[f"/{service}/{name}"] = handler

    def find(self, method: str, metadata: Metadata) -> Any:
        """The handler of a call of ``/package.Service/Method`` with these headers; None if nothing serves it."""
        handler = self._methods.get(method)
        if handler is not None:
            return handler
        details = CallDetails(method, metadata)
        for generic in (*self._named.get(method[1:].partition("/")[0], ()), *self._generic):
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None
