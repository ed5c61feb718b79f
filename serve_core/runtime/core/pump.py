"""Sends messages one after the other as the core takes them: no task is woken, and no future made, for any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import grpc.aio

GATHERED_BYTES = 8 * 1024
"""Messages that are ready one after the other wait in the core up to so much, and go in one write to the socket."""

MESSAGE_COST_BYTES = 64
"""What a message counts for that beside its bytes."""


class Source(Protocol):
    """Messages that come from elsewhere, and wait there until they are taken."""

    @property
    def ready(self) -> bool:
        """Whether there is a message to take."""

    @property
    def ended(self) -> bool:
        """Whether none will come any more."""

    def take(self) -> bytes:
        """The next message. Only while ``ready``."""

    def tell(self, on_news: Callable[[], None] | None) -> None:
        """Has this called whenever a message may have come, or the end; None ends that."""


Ask = Callable[[bytes, bool, Callable[[Any], None]], bool]
"""Has the core send a message, which may wait there for the next if that is said, and the last called with the event."""


class Pump:
    """Carries messages from a source to the core, one at a time: the next is taken once the core has taken the one before.

    Args:
        source: Has the messages.
        check: Is called with each before it is sent. What it raises ends the pump.
        ask: Has the core send one; False if the call is over.
        over: Is done once the source has ended and the core has taken everything. Cancelling it ends the pump.
        on_free: Is called once nothing is under way any more, after ``over`` was cancelled.
    """

    __slots__ = ("_ask", "_check", "_gathered", "_on_free", "_over", "_source", "busy")

    def __init__(
        self,
        source: Source,
        check: Callable[[bytes], None],
        ask: Ask,
        over: asyncio.Future[bool],
        on_free: Callable[[], None],
    ) -> None:
        self._source = source
        self._check = check
        self._ask = ask
        self._over = over
        self._on_free = on_free
        self._gathered = 0
        self.busy = False
        """Whether a message is under way in the core."""

    def go_on(self) -> None:
        """Sends what is ready, if nothing is under way."""
        if self.busy or self._over.done():
            return
        try:
            self._next()
        except Exception as error:  # noqa: BLE001 - the source's, and the core's: for who waits
            self._over.set_exception(error)

    def _next(self) -> None:
        source = self._source
        if source.ready:
            message = source.take()
            self._check(message)
            self._gathered += len(message) + MESSAGE_COST_BYTES
            waits = self._gathered < GATHERED_BYTES and source.ready
            if not waits:
                self._gathered = 0
            self.busy = self._ask(message, waits, self._on_taken)
            if not self.busy:
                raise grpc.aio.InternalError("the message could not be sent: the call is over")
        elif source.ended:
            self._over.set_result(True)

    def _on_taken(self, event: Any) -> None:
        self.busy = False
        if self._over.done():
            self._on_free()
        elif event.success:
            self.go_on()
        else:
            self._over.set_exception(grpc.aio.InternalError("the message could not be sent: the call is over"))
