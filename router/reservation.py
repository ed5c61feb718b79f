"""A promise of slots, and who made it."""

from __future__ import annotations

from dataclasses import dataclass

from router.upstream import Upstream
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A promise of slots, and who made it. The lease's ``expires_at`` is in seconds since the Unix epoch."""

    lease: Lease
    replica: Replica


class Held:
    """A promise that this router holds for one request, inside ``Router.hold``."""

    def __init__(self, reservation: Reservation, upstream: Upstream) -> None:
        self.reservation = reservation
        self.upstream = upstream
        self.spent = False

    @property
    def token(self) -> str:
        """The token's text."""
        return str(self.reservation.lease.token)

    def spend(self) -> None:
        """The token is dispatched, or someone else's from now on: leaving the block does not release it."""
        self.spent = True
