"""Promises that are held for a block of code. A class, because generators cost each block more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from router.going import Going
from router.reservation import Held, Reservation
from router.reserving import Reserving
from router.upstream import Upstream
from serve_core.model.ids import DeploymentKey
from serve_core.model.slots import Lease

Ask = Callable[[Upstream], Awaitable[Lease]]


class Holder(Protocol):
    """A router, as far as promises need one."""

    @property
    def reserving(self) -> Reserving:
        """The slot calls."""

    def enter(self, key: DeploymentKey, slots: int, deadline: float | None) -> Going:
        """Lets a request in; see ``Router.run``."""

    async def deliver(self, going: Going, send: Ask) -> tuple[Lease, Upstream]:
        """Asks replicas, one after the other, until one has promised."""


class Hold(AbstractAsyncContextManager[Held]):
    """A promise for a block. Made by ``Router.hold``.

    Args:
        holder: Asks replicas.
        send: Asks one of them.
        key: The deployment.
        slots: What it holds.
        deadline: Monotonic seconds until which it may wait for a slot; None means without end.
    """

    __slots__ = ("_deadline", "_going", "_held", "_holder", "_key", "_send", "_slots")

    def __init__(self, holder: Holder, send: Ask, key: DeploymentKey, *, slots: int, deadline: float | None) -> None:
        self._holder = holder
        self._send = send
        self._key = key
        self._slots = slots
        self._deadline = deadline

    async def __aenter__(self) -> Held:
        self._going = going = self._holder.enter(self._key, self._slots, self._deadline)
        try:
            lease, upstream = await self._holder.deliver(going, self._send)
        except BaseException:
            going.end()
            raise
        upstream.begin_use()
        self._held = Held(Reservation(lease, upstream.replica), upstream)
        return self._held

    async def __aexit__(self, *raised: object) -> None:
        held = self._held
        try:
            if not held.spent:
                await self._holder.reserving.give_back(held.upstream, held.token, freed=self._slots)
        finally:
            held.upstream.end_use()
            self._going.end()
