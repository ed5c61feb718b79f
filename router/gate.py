"""Whether the router takes new requests, and how many it has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from serve_core.errors import DeploymentUnavailableError, DrainingError
from serve_core.runtime.clock import monotonic

RETRY_AFTER_S = 1.0


class Gate:
    """Counts the requests inside, and refuses new ones before it is opened and after it is closed."""

    def __init__(self, router_id: str) -> None:
        self._router_id = router_id
        self._inside = 0
        self._opened = False
        self._closed = False
        self._last_at = 0.0
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def opened(self) -> bool:
        """Whether it was opened: also true once it is closed."""
        return self._opened

    @property
    def closed(self) -> bool:
        """Whether it was closed, for good."""
        return self._closed

    @property
    def inside(self) -> int:
        """Requests that run or wait."""
        return self._inside

    @property
    def last_at(self) -> float:
        """When the last request came in, in monotonic seconds; 0 before the first."""
        return self._last_at

    def open(self) -> None:
        """Takes requests from now on, unless it was closed."""
        self._opened = True

    def close(self) -> None:
        """Refuses new requests from now on."""
        self._closed = True

    def check(self) -> None:
        """Does nothing while requests are taken.

        Raises:
            DrainingError: Closed. Nothing was run.
            DeploymentUnavailableError: Not opened yet. Nothing was run.
        """
        if self._closed:
            raise DrainingError(
                f"router {self._router_id} is draining and takes nothing new: call another router",
                details={"routerId": self._router_id},
                # Not at once: a client that sends it again does so on the same connection, until this router ends.
                retry_after_s=RETRY_AFTER_S,
            )
        if not self._opened:
            raise DeploymentUnavailableError(
                f"router {self._router_id} has not heard from a controller yet: retry, or call another router",
                details={"routerId": self._router_id},
                retry_after_s=RETRY_AFTER_S,
            )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Counts one request for as long as it is inside.

        Raises:
            DrainingError, DeploymentUnavailableError: As ``check``.
        """
        self.check()
        self._inside += 1
        self._last_at = monotonic()
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()

    async def drained(self, timeout_s: float) -> bool:
        """Waits until nothing is inside, at most ``timeout_s`` seconds; says whether that came about."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return self._inside == 0
        return True
