"""``grpc.health.v1`` with Check, Watch and List. (grpcio's own asynchronous servicer has no List.)

Before 1.85, grpcio-health-checking knows no List, and neither does who calls it: then it is UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health_pb2

from serve_core.runtime.handlers import Context

SERVICE_NAME = "grpc.health.v1.Health"

WHOLE, LIVENESS, READINESS = "", "liveness", "readiness"
"""The names that every process of ours has besides those of its services: does it serve, does it live, is it ready."""

LIST_MAX = 100
"""How many services List tells of at most; with more it is RESOURCE_EXHAUSTED."""

WATCHERS_MAX = 1000
"""How many Watch calls are open at most; more are RESOURCE_EXHAUSTED."""

CHANGES_MAX = 100
"""How many changes a slow watcher may be behind; then it misses the oldest of them, never the latest."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_Status = int  # the generated enumeration is not a type at run time


class HealthServicer:
    """Tells probes, balancers and clients which services are served.

    A new process is alive and not yet ready.

    Args:
        services: The full names of the services that share the readiness of the process.
    """

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._readied = (WHOLE, READINESS, *services)
        self._statuses: dict[str, _Status] = {LIVENESS: _SERVING, **dict.fromkeys(self._readied, _NOT_SERVING)}
        self._watchers: dict[_Watcher, str] = {}
        self._shut_down = False

    def set(self, service: str, *, serving: bool) -> None:
        """Say whether a service is served, and tell all who watch it. Of no effect after ``shut_down``."""
        if not self._shut_down:
            self._put(service, _SERVING if serving else _NOT_SERVING)

    def set_ready(self, *, ready: bool) -> None:
        """The same for the whole process, its readiness, and the services that it was made with."""
        for service in self._readied:
            self.set(service, serving=ready)

    def shut_down(self) -> None:
        """Everything is NOT_SERVING from now on, but for the liveness: who leaves lives. Watchers are told, and stay."""
        for service in self._statuses:
            if service != LIVENESS:
                self.set(service, serving=False)
        self._shut_down = True

    def close(self) -> None:
        """``shut_down``, and end the watchers' streams once they were told, with UNAVAILABLE."""
        self.shut_down()
        for watcher in self._watchers:
            watcher.close()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service; NOT_FOUND when there is none of this name."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The statuses of all services."""
        del request
        if len(self._statuses) > LIST_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{len(self._statuses)} services are more than the {LIST_MAX} of List",
            )
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        )

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one service, now and after every change; SERVICE_UNKNOWN while there is none of this name."""
        if len(self._watchers) >= WATCHERS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{WATCHERS_MAX} health watches are open")
        watcher = _Watcher(self._statuses.get(request.service, _UNKNOWN))
        if self._shut_down:
            watcher.close()
        self._watchers[watcher] = request.service
        try:
            while (status := await watcher.next()) is not None:
                yield health_pb2.HealthCheckResponse(status=status)
        finally:
            del self._watchers[watcher]
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    def _put(self, service: str, status: _Status) -> None:
        if self._statuses.get(service) == status:
            return
        self._statuses[service] = status
        for watcher, watched in self._watchers.items():
            if watched == service:
                watcher.put(status)


class _Watcher:
    """What one Watch call is still to be told. At most ``CHANGES_MAX`` statuses, then None for ever."""

    def __init__(self, first: _Status) -> None:
        self._changes: asyncio.Queue[_Status | None] = asyncio.Queue(CHANGES_MAX + 1)
        self.put(first)

    def put(self, status: _Status) -> None:
        if self._changes.qsize() >= CHANGES_MAX:
            self._changes.get_nowait()
        self._changes.put_nowait(status)

    def close(self) -> None:
        if not self._changes.full():
            self._changes.put_nowait(None)

    async def next(self) -> _Status | None:
        return await self._changes.get()
