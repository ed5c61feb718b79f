"""Promises that are held for a block of code. A class, because generators cost each block more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from router.going import Going
from router.reservation import Held
from router.reserving import Reserving, ends_first
from router.upstream import Upstream
from serve_core.link.call import LinkCall
from serve_core.model.ids import DeploymentKey
from serve_core.model.slots import Lease

Ask = Callable[[Upstream], Awaitable[Lease]]


class Holder(Protocol):
    """A router, as far as promises need one."""

    @property
    def reserving(self) -> Reserving:
        """The slot calls."""

    def begin(self, key: DeploymentKey, *, slots: int, deadline: float | None) -> Going:
        """Lets a request in; see ``Router.begin``."""

    async def deliver(self, going: Going, send: Ask) -> tuple[Lease, Upstream]:
        """Asks replicas, one after the other, until one has promised."""


class Hold(AbstractAsyncContextManager[Held]):
    """A promise for a block. Made by ``Router.hold``.

    Args:
        holder: Asks replicas.
        key: The deployment.
        slots: What it holds.
        ttl_s: How long the promise should hold; None means the deployment's default.
        request_id: The same id again gets the same token while that lives.
        deadline: Monotonic seconds until which it may wait for a slot; None means without end.
    """

    __slots__ = ("_deadline", "_going", "_held", "_holder", "_key", "_request_id", "_slots", "_ttl_s")

    def __init__(
        self,
        holder: Holder,
        key: DeploymentKey,
        *,
        slots: int,
        ttl_s: float | None,
        request_id: str,
        deadline: float | None,
    ) -> None:
        self._holder = holder
        self._key = key
        self._slots = slots
        self._ttl_s = ttl_s
        self._request_id = request_id
        self._deadline = deadline

    async def __aenter__(self) -> Held:
        reserving = self._holder.reserving
        self._going = going = self._holder.begin(self._key, slots=self._slots, deadline=self._deadline)
        upstream, held = going.upstream, None
        try:
            if upstream is not None:
                going.sent = call = reserving.ask(
                    upstream, slots=self._slots, ttl_s=self._ttl_s, request_id=self._request_id
                )
                if isinstance(call, LinkCall) and ends_first(self._deadline):
                    try:
                        await call.over()
                    except asyncio.CancelledError:
                        upstream.begin_use()
                        reserving.give_up(upstream, call)
                        raise
                    held = reserving.granted(upstream, self._slots, call)
            if held is None:
                held = await self._deliver(going)
        except BaseException:
            going.end()
            raise
        self._held = held
        return held

    async def __aexit__(self, *raised: object) -> None:
        held = self._held
        try:
            if not held.spent:
                await self._holder.reserving.give_back(held.upstream, held.token, freed=self._slots)
        finally:
            self._going.end()

    async def _deliver(self, going: Going) -> Held:
        """Waits for what was asked at once, if anything was, and asks others where that was refused."""
        send = self._holder.reserving.sender(
            slots=self._slots,
            ttl_s=self._ttl_s,
            request_id=self._request_id,
            deadline=self._deadline,
            sent=going.sent,
        )
        lease, upstream = await self._holder.deliver(going, send)
        upstream.begin_use()
        going.upstream = upstream
        return Held(upstream, lease, token=str(lease.token), ttl_s=lease.ttl_s)
