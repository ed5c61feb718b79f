"""A promise of slots, and who made it."""

from __future__ import annotations

from typing import NamedTuple

from router.upstream import Upstream
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease


class Reservation(NamedTuple):
    """A promise of slots, and who made it. The lease's ``expires_at`` is in seconds since the Unix epoch."""

    lease: Lease
    replica: Replica


class Held:
    """A promise that this router holds for one request, inside ``Router.hold``."""

    __slots__ = ("reservation", "spent", "token", "upstream")

    def __init__(self, reservation: Reservation, upstream: Upstream) -> None:
        self.reservation = reservation
        self.upstream = upstream
        self.token = str(reservation.lease.token)
        self.spent = False

    def spend(self) -> None:
        """The token is dispatched, or someone else's from now on: leaving the block does not release it."""
        self.spent = True
