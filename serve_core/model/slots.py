"""Promises of slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from serve_core.model.ids import GangToken, SlotToken


class Rejection(IntEnum):
    """Why no slot was promised; the numbers of ``serve_core.v1.RejectionReason``."""

    FULL = 1
    DRAINING = 2
    TOO_MANY = 3


class Lease(NamedTuple):
    """A promise of ``slots`` until ``expires_at``, in seconds by the clock of who made it; ``ttl_s`` was granted."""

    token: SlotToken
    slots: int
    ttl_s: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GangLease:
    """A promise of ``slots`` on every member of a gang, for as long as each of their leases: see ``Lease``."""

    token: GangToken
    slots: int
    ttl_s: float
    expires_at: float

    @classmethod
    def of(cls, leases: Sequence[Lease]) -> GangLease:
        """What the leases of the members, by rank, come to: it ends with the first of them."""
        return cls(
            token=GangToken(tuple(lease.token for lease in leases)),
            slots=min(lease.slots for lease in leases),
            ttl_s=min(lease.ttl_s for lease in leases),
            expires_at=min(lease.expires_at for lease in leases),
        )


AnyLease = Lease | GangLease
"""A promise on one replica, or on every member of a gang."""


class SlotCounters(NamedTuple):
    """How promises ended; see ``serve_core.v1.SlotCounters``. A call without a token counts as one, used at once."""

    issued: int = 0
    dispatched_ok: int = 0
    dispatched_error: int = 0
    released: int = 0
    expired: int = 0
    fenced: int = 0
    reserved: int = 0
    ongoing: int = 0

    @property
    def ended(self) -> int:
        """Promises that are over, however they ended."""
        return self.dispatched_ok + self.dispatched_error + self.released + self.expired + self.fenced
