"""A replica's ledger beside a naive account of the same: whatever the ledger says is compared after each operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from replica.core.slots import Run, SlotLedger
from serve_core.model.ids import OwnerId, SlotToken
from serve_core.model.load import Load
from serve_core.model.slots import Lease, Rejection
from tests.simulation.engine import Engine, Violation


@dataclass(slots=True)
class Promise:
    """What a token stands for, as one would note it on paper."""

    slots: int
    expires_at: float
    owner: OwnerId | None
    request_id: str


class Slots:
    """The ledger of one process.

    Invariant 1: ongoing + reserved are never more than the capacity; every slot that was granted is freed exactly once;
    every token ends in exactly one way.
    """

    def __init__(self, engine: Engine, name: str, ledger: SlotLedger) -> None:
        self.ledger = ledger
        self.free_since = engine.now
        self._engine = engine
        self._name = name
        self._promises: dict[str, Promise] = {}
        self._running: dict[int, int] = {}
        self._runs: dict[int, Run] = {}
        self._count = 0
        self._issued = 0
        self._ended = 0
        self._capacity = 0
        self._draining = False

    @property
    def load(self) -> Load:
        """What is held, by the ledger."""
        return self.ledger.load

    def resize(self, capacity: int) -> None:
        """The capacity changes, live."""
        self._expire()
        self.ledger.resize(capacity)
        self._capacity = capacity
        self._compare("resize")

    def reserve(self, *, slots: int, ttl_s: float, request_id: str, owner: OwnerId | None, secret: str) -> Lease | None:
        """Promises slots, or not."""
        now = self._expire()
        held = self._held()
        known = next((p for p in self._promises.values() if request_id and p.request_id == request_id), None)
        answer = self.ledger.reserve(
            slots=slots, ttl_s=ttl_s, request_id=request_id, owner=owner, now=now, secret=secret
        )
        if isinstance(answer, Rejection):
            self._demand(known is None, f"refused {answer.name} to the request that has a promise: {request_id}")
            full = held + slots > self._capacity
            self._demand(
                full or self._draining or self.ledger.suspended,
                f"refused {answer.name} with {held} of {self._capacity} held",
            )
        elif answer.token.secret == secret:
            self._demand(known is None, f"a second promise for the request {request_id}")
            self._demand(not self._draining, "a promise while draining")
            self._demand(held + slots <= self._capacity, f"promised beyond capacity: {held} + {slots}")
            self._promises[secret] = Promise(slots, answer.expires_at, owner, request_id)
            self._issued += 1
        elif known is not None and known.owner is not None:
            known.owner = owner
        self._compare("reserve")
        return None if isinstance(answer, Rejection) else answer

    def start(self, *, slots: int, owner: OwnerId | None) -> int:
        """Takes slots for a call without a token; raises as the ledger does."""
        now = self._expire()
        held = self._held()
        run = self.ledger.start(slots=slots, owner=owner, now=now)
        self._demand(not (self._draining or self.ledger.suspended), "took a call while draining or suspended")
        self._demand(held + slots <= self._capacity, f"took a call beyond capacity: {held} + {slots}")
        self._issued += 1
        return self._run(run, slots)

    def dispatch(self, token: str) -> int:
        """Uses a promise; raises as the ledger does."""
        now = self._expire()
        parsed = SlotToken.parse(token)
        promise = self._promises.get(parsed.secret) if parsed is not None else None
        try:
            run = self.ledger.dispatch(token, now=now)
        except Exception as error:
            self._demand(promise is None, f"a good token was refused: {error!r}")
            raise
        if promise is None or parsed is None:
            self._broken("a call runs with a token that is void")
        del self._promises[parsed.secret]
        return self._run(run, promise.slots)

    def finish(self, number: int, *, ok: bool) -> None:
        """A call has ended, however it did."""
        now = self._expire()
        freed = self.ledger.finish(self._runs.pop(number), ok=ok, now=now)
        self._demand(freed, "the slots of a call that ran were free already")
        del self._running[number]
        self._ended += 1
        self._compare("finish")

    def release(self, token: str) -> bool:
        """Gives a promise back."""
        now = self._expire()
        parsed = SlotToken.parse(token)
        secret = parsed.secret if parsed is not None else ""
        released = self.ledger.release(token, now=now)
        self._demand(released == (secret in self._promises), f"release of {secret[:8]} answered {released}")
        self._drop(secret)
        self._compare("release")
        return released

    def renew(self, token: str, *, ttl_s: float, detach: bool) -> Lease:
        """Prolongs a promise; raises as the ledger does."""
        lease = self.ledger.renew(token, ttl_s=ttl_s, detach=detach, now=self._expire())
        promise = self._promises[lease.token.secret]
        if not self._draining:
            promise.expires_at = self._engine.now + ttl_s
        self._demand(promise.expires_at == lease.expires_at, "a renewed lease ends at another time than it says")
        if detach:
            promise.owner = None
        self._compare("renew")
        return lease

    def owner_gone(self, owner: OwnerId) -> None:
        """A router's watch has ended, and its promises with it."""
        now = self._expire()
        self.ledger.owner_gone(owner, now=now)
        for secret in [secret for secret, promise in self._promises.items() if promise.owner == owner]:
            self._drop(secret)
        self._compare("owner_gone")

    def suspend(self, *, suspended: bool) -> None:
        """Takes nothing new for now, or takes it again."""
        self.ledger.suspended = suspended

    def drain(self) -> None:
        """Takes nothing new."""
        self._draining = True
        self.ledger.drain()

    def close(self) -> None:
        """Ends every promise."""
        self.drain()
        self.ledger.close(now=self._expire())
        for secret in list(self._promises):
            self._drop(secret)
        self._compare("close")

    def expire(self) -> None:
        """The lease timer rings."""
        self._expire()
        self._compare("expire")

    def check_rest(self) -> None:
        """Nothing is held, and everything that was promised has ended."""
        self.expire()
        self.ledger.check()
        counters = self.ledger.counters
        self._demand(counters.ended == counters.issued, f"tokens were lost: {counters}")
        self._demand(self.load.held == 0, f"slots are held at rest: {self.load}")

    def _run(self, run: Run, slots: int) -> int:
        self._count += 1
        self._runs[self._count], self._running[self._count] = run, slots
        self._compare("run")
        return self._count

    def _expire(self) -> float:
        now = self._engine.now
        self.ledger.expire(now)
        for secret in [secret for secret, promise in self._promises.items() if promise.expires_at <= now]:
            self._drop(secret)
        return now

    def _drop(self, secret: str) -> None:
        if self._promises.pop(secret, None) is not None:
            self._ended += 1

    def _held(self) -> int:
        return sum(self._running.values()) + sum(promise.slots for promise in self._promises.values())

    def _compare(self, what: str) -> None:
        load, counters = self.ledger.load, self.ledger.counters
        ongoing = sum(self._running.values())
        reserved = sum(promise.slots for promise in self._promises.values())
        if load.ongoing != ongoing:
            self._broken(f"{load.ongoing} slots are ongoing, but calls run on {ongoing}")
        if load.reserved != reserved:
            self._broken(f"{load.reserved} slots are reserved, but {reserved} are promised")
        if (counters.issued, counters.ended) != (self._issued, self._ended):
            self._broken(f"{counters} after {what}, but {self._issued} were issued and {self._ended} ended")
        if load.free < 1:
            self.free_since = float("inf")
        elif self.free_since == float("inf"):
            self.free_since = self._engine.now

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._broken(otherwise)

    def _broken(self, why: str) -> NoReturn:
        raise Violation(f"invariant 1, slots of {self._name}: {why}")
