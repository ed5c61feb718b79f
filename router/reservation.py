"""A promise of slots, and who made it."""

from __future__ import annotations

from typing import NamedTuple

from router.upstream import Upstream
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease
from serve_core.v1 import types_pb2
from serve_core.wire.slots import decode_lease


class Reservation(NamedTuple):
    """A promise of slots, and who made it. The lease's ``expires_at`` is in seconds since the Unix epoch."""

    lease: Lease
    replica: Replica


class Held:
    """A promise that this router holds for one request, inside ``Router.hold``.

    Args:
        upstream: The connection to who promised.
        lease: The promise, or what tells it: that is read once somebody asks, as most requests only pass its token on.
        token: Its token, as text.
        ttl_s: The time to live that was granted.
    """

    __slots__ = ("_lease", "replica", "spent", "token", "ttl_s", "upstream")

    def __init__(self, upstream: Upstream, lease: Lease | types_pb2.SlotLease, *, token: str, ttl_s: float) -> None:
        self.upstream = upstream
        self.replica = upstream.replica
        self.token = token
        self.ttl_s = ttl_s
        self.spent = False
        self._lease = lease

    @property
    def lease(self) -> Lease:
        """The promise; its ``expires_at`` is in seconds since the Unix epoch."""
        lease = self._lease
        if not isinstance(lease, Lease):
            lease = self._lease = decode_lease(lease)
        return lease

    def spend(self) -> None:
        """The token is dispatched, or someone else's from now on: leaving the block does not release it."""
        self.spent = True
