"""Promises that are held for a block of code. A class, because generators cost each block more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from router.going import Going
from router.reservation import Held, Reservation
from router.reserving import Reserving
from router.upstream import Upstream
from serve_core.model.slots import Lease

Ask = Callable[[Upstream], Awaitable[Lease]]


class Asking(Protocol):
    """Asks replicas, one after the other, until one has promised."""

    async def __call__(self, going: Going, send: Ask, /) -> tuple[Lease, Upstream]:
        """Who promised what; see ``Router.run``."""


class Hold(AbstractAsyncContextManager[Held]):
    """A promise for a block. Made by ``Router.hold``.

    Args:
        enter: Lets the request in.
        asking: Asks replicas.
        send: Asks one of them.
        reserving: Gives the promise back.
        slots: What it holds.
    """

    __slots__ = ("_asking", "_enter", "_going", "_held", "_reserving", "_send", "_slots")

    def __init__(
        self, enter: Callable[[], Going], asking: Asking, send: Ask, reserving: Reserving, *, slots: int
    ) -> None:
        self._enter = enter
        self._asking = asking
        self._send = send
        self._reserving = reserving
        self._slots = slots

    async def __aenter__(self) -> Held:
        self._going = going = self._enter()
        try:
            lease, upstream = await self._asking(going, self._send)
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
                await self._reserving.give_back(held.upstream, held.token, freed=self._slots)
        finally:
            held.upstream.end_use()
            self._going.end()
