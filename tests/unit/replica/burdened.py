"""A ledger that holds many promises for many routers, and what happens to it: to count and to time what that costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count

from replica.core.slots import SlotLedger
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.slots import Lease, Rejection

TTL_S = 1e6


class Burdened:
    """A replica's ledger with ``size`` promises, each for another router that listens, and one slot that is free."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = 1.0
        self.ledger = SlotLedger(replica_id=ReplicaId("r"), epoch=1, capacity=size + 1, history_limit=size)
        self._secrets = count()
        for number in range(size):
            self.ledger.owner_came(self.owner(number))
        self.tokens = deque(self.reserve(number) for number in range(size))

    @staticmethod
    def owner(number: int) -> OwnerId:
        return OwnerId(f"router-{number}")

    def reserve(self, number: int, *, ttl_s: float = TTL_S) -> str:
        """A promise for the router with this number."""
        lease = self.ask(number, ttl_s=ttl_s)
        assert isinstance(lease, Lease)
        return str(lease.token)

    def ask(self, number: int, *, ttl_s: float = TTL_S) -> Lease | Rejection:
        self.now += 0.001
        return self.ledger.reserve(
            ttl_s=ttl_s, owner=self.owner(number % self.size), now=self.now, secret=f"{next(self._secrets):032x}"
        )

    def tell(self, *, wanted: int) -> None:
        """As the shell does after each operation."""
        assert len(self.ledger.owners_to_tell()) == wanted
        self.ledger.deadline()


Operation = Callable[[Burdened], Callable[[int], None]]
"""Prepares a ledger; what it returns makes the thing happen, at the place with this number."""


def call(burdened: Burdened) -> Callable[[int], None]:
    def happen(number: int) -> None:
        burdened.now += 0.001
        run = burdened.ledger.start(owner=burdened.owner(number % burdened.size), now=burdened.now)
        burdened.tell(wanted=0)
        burdened.ledger.finish(run, ok=True, now=burdened.now)
        burdened.tell(wanted=0)

    return happen


def pair(burdened: Burdened) -> Callable[[int], None]:
    def happen(number: int) -> None:
        run = burdened.ledger.dispatch(burdened.reserve(number), now=burdened.now)
        burdened.ledger.finish(run, ok=True, now=burdened.now)
        burdened.tell(wanted=0)

    return happen


def renewal(burdened: Burdened) -> Callable[[int], None]:
    def happen(_: int) -> None:
        burdened.now += 0.001
        burdened.tokens.rotate(1)
        burdened.ledger.renew(burdened.tokens[0], ttl_s=TTL_S, now=burdened.now)
        burdened.tell(wanted=0)

    return happen


def lease_over(burdened: Burdened) -> Callable[[int], None]:
    def happen(number: int) -> None:
        burdened.reserve(number, ttl_s=0.001)
        burdened.now += 0.01
        assert burdened.ledger.expire(burdened.now) == 1
        burdened.tell(wanted=0)

    return happen


def router_lost(burdened: Burdened) -> Callable[[int], None]:
    """A router with one promise goes, and comes back."""

    def happen(number: int) -> None:
        owner = OwnerId(f"late-{number}")
        burdened.ledger.owner_came(owner)
        burdened.ledger.reserve(ttl_s=TTL_S, owner=owner, now=burdened.now, secret=f"late-{number}")
        assert burdened.ledger.owner_gone(owner, now=burdened.now) == 1
        burdened.tell(wanted=0)

    return happen


def freed_for_one(burdened: Burdened) -> Callable[[int], None]:
    """One of many routers was refused, and is told of the slot that frees."""
    token = [burdened.reserve(0)]

    def happen(number: int) -> None:
        assert burdened.ask(number) is Rejection.FULL
        burdened.tell(wanted=0)
        burdened.ledger.release(token.pop(), now=burdened.now)
        burdened.tell(wanted=1)
        token.append(burdened.reserve(number))

    return happen


def refused_beside_all(burdened: Burdened) -> Callable[[int], None]:
    """Everyone was refused, and is again."""
    burdened.reserve(0)
    for number in range(burdened.size):
        assert burdened.ask(number) is Rejection.FULL

    def happen(number: int) -> None:
        assert burdened.ask(number) is Rejection.FULL
        burdened.tell(wanted=0)

    return happen


OPERATIONS: dict[str, Operation] = {
    "call": call,
    "reserve and dispatch": pair,
    "a lease is renewed": renewal,
    "a lease is over": lease_over,
    "a router is lost": router_lost,
    "a slot frees for one who was refused": freed_for_one,
    "refused, as everyone is": refused_beside_all,
}
