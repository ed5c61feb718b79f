"""Calls that wait in an actor for one of its slots, in the order in which they came.

A replica refuses a call that finds no slot, so that another one can take it. An actor is the only one of its kind: its
callers would have to try again and again, and the luckiest would win.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from replica.calls import Claim
from replica.desk import Occupancy, SlotDesk
from serve_core.errors import NoSlotError, QueueFullError

WAITING_MAX = 10_000
"""Calls that may wait; more are refused."""


class Line:
    """The calls that wait.

    Args:
        desk: Where the slots are.
    """

    def __init__(self, desk: SlotDesk) -> None:
        self._desk = desk
        self._waiting: OrderedDict[asyncio.Event, None] = OrderedDict()  # one may leave from anywhere
        desk.on_change(self._call_next)
        desk.on_fence(self._call_next)

    async def admit(self, claim: Claim) -> Occupancy:
        """Takes the claimed slots once it is this call's turn and they are free.

        Raises:
            QueueFullError: Too many wait. Nothing was run.
            ServeError: As ``SlotDesk.admit``, but NoSlotError; nothing was run.
        """
        if not self._waiting and (occupancy := self._try(claim)) is not None:
            return occupancy
        if len(self._waiting) >= WAITING_MAX:
            raise QueueFullError(f"{WAITING_MAX} calls wait in {self._desk.replica_id} already: nothing was run")
        turn = asyncio.Event()
        self._waiting[turn] = None
        try:
            while (occupancy := self._try(claim) if self._is_next(turn) else None) is None:
                # After the try, which may have set it.
                turn.clear()
                await turn.wait()
            return occupancy
        finally:
            del self._waiting[turn]
            self._call_next()

    def _is_next(self, turn: asyncio.Event) -> bool:
        return next(iter(self._waiting)) is turn

    @property
    def _refuses(self) -> bool:
        return self._desk.draining or self._desk.suspended

    def _try(self, claim: Claim) -> Occupancy | None:
        try:
            return self._desk.admit(token=claim.token, slots=claim.slots, owner=claim.owner)
        except NoSlotError:
            return None

    def _call_next(self) -> None:
        """Wakes the first, if there is a slot for it, or if nothing new is taken, which refuses it: then it wakes the next."""
        if self._waiting and (self._refuses or self._desk.load.free > 0):
            next(iter(self._waiting)).set()
