"""Whether the router takes new requests, and how many it has."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from serve_core.errors import DeploymentUnavailableError, DrainingError
from serve_core.runtime.clock import monotonic

RETRY_AFTER_S = 1.0

HOLD_TIMEOUT_S = 10.0
"""How long a request waits for the gate to be opened, unless its own deadline is earlier."""

HELD_MAX = 1000
"""Requests that wait for that at once; more are refused."""


class Gate:
    """Counts the requests inside, holds new ones for a while before it is opened, and refuses them after it is closed."""

    def __init__(self, router_id: str) -> None:
        self._router_id = router_id
        self._inside = 0
        self._opened = False
        self._closed = False
        self.takes = False
        """Whether it lets requests in now, without any waiting."""
        self._last_at = 0.0
        self._held = 0
        self._decided = asyncio.Event()
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
    def held(self) -> int:
        """Requests that wait for it to be opened."""
        return self._held

    @property
    def last_at(self) -> float:
        """When the last request came in, in monotonic seconds; 0 before the first."""
        return self._last_at

    def open(self) -> None:
        """Takes requests from now on, unless it was closed."""
        self._opened = True
        self.takes = not self._closed
        self._decided.set()

    def close(self) -> None:
        """Refuses new requests from now on."""
        self._closed = True
        self.takes = False
        self._decided.set()

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

    async def passed(self, timeout_s: float | None) -> None:
        """Waits until it is opened or closed: ``timeout_s`` seconds at most, and no longer than any request is held.

        Raises:
            DrainingError, DeploymentUnavailableError: As ``check``.
        """
        if not self._decided.is_set() and self._held < HELD_MAX:
            limit_s = HOLD_TIMEOUT_S if timeout_s is None else min(timeout_s, HOLD_TIMEOUT_S)
            self._held += 1
            try:
                async with asyncio.timeout(limit_s):
                    await self._decided.wait()
            except TimeoutError:
                pass  # Refused below, unless it was opened in this moment.
            finally:
                self._held -= 1
        self.check()

    def entered(self, timeout_s: float | None = None) -> AbstractAsyncContextManager[None]:
        """Counts one request for as long as it is inside; ``timeout_s`` is what it has left.

        Raises:
            DrainingError, DeploymentUnavailableError: As ``passed``.
        """
        return _Visit(self, timeout_s)

    def enter(self, now: float | None = None) -> None:
        """Counts a request that was let in, in this moment."""
        if self._inside == 0:
            self._empty.clear()
        self._inside += 1
        self._last_at = monotonic() if now is None else now

    def leave(self) -> None:
        """A request that was let in is over."""
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


class _Visit(AbstractAsyncContextManager[None]):
    """A request inside. A class, because every call has one and generators cost it more."""

    __slots__ = ("_gate", "_timeout_s")

    def __init__(self, gate: Gate, timeout_s: float | None) -> None:
        self._gate = gate
        self._timeout_s = timeout_s

    async def __aenter__(self) -> None:
        await self._gate.passed(self._timeout_s)
        self._gate.enter()

    async def __aexit__(self, *raised: object) -> None:
        self._gate.leave()
