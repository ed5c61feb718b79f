"""The slot ledger against a second implementation that is too simple to be wrong: lists, and loops over them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from replica.core.slots import Run, SlotLedger
from serve_core.errors import (
    ConfigInvalidError,
    DrainingError,
    NoSlotError,
    ServeError,
    SlotConsumedError,
    SlotExpiredError,
    SlotFencedError,
    SlotUnknownError,
)
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.slots import Lease, Rejection

ME = ReplicaId("app.dep.g-0")
OWNERS = st.sampled_from([None, OwnerId("a"), OwnerId("b")])
SLOTS = st.integers(1, 4)
TTLS = st.integers(1, 8)
LATE = 10
"""Reservations after which a run may begin to drain."""
REFUSALS: dict[Rejection, type[ServeError]] = {
    Rejection.DRAINING: DrainingError,
    Rejection.TOO_MANY: ConfigInvalidError,
    Rejection.FULL: NoSlotError,
}


@dataclass
class Grant:
    """One promise or call of the model. Times are whole seconds."""

    token: str
    slots: int
    owner: OwnerId | None = None
    request_id: str = ""
    ttl: int = 0
    end: int = 0
    state: str = "ongoing"


class Model:
    """What a replica owes, said plainly."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.epoch = 1
        self.draining = False
        self.grants: list[Grant] = []
        self.listening: list[OwnerId] = []
        self.refused: list[tuple[OwnerId, int]] = []

    def pass_time(self, now: int) -> None:
        for grant in self.grants:
            if grant.state == "reserved" and grant.end <= now:
                grant.state = "expired"

    def of(self, state: str) -> list[Grant]:
        return [grant for grant in self.grants if grant.state == state]

    @property
    def free(self) -> int:
        return self.capacity - sum(grant.slots for grant in self.of("reserved") + self.of("ongoing"))

    def refusal(self, slots: int, owner: OwnerId | None) -> Rejection | None:
        if self.draining:
            return Rejection.DRAINING
        if slots > self.capacity:
            return Rejection.TOO_MANY
        if slots > self.free:
            if owner is not None and owner in self.listening:
                self.refused.append((owner, slots))
            return Rejection.FULL
        return None

    def find(self, token: str) -> Grant | None:
        return next((grant for grant in self.grants if grant.token and grant.token == token), None)

    def complaint(self, token: str) -> type[ServeError] | None:
        """The error that using ``token`` ends in, if it does."""
        if token.split(".")[1] != str(self.epoch):
            return SlotFencedError
        grant = self.find(token)
        if grant is None:
            return SlotUnknownError
        return {
            "reserved": None,
            "expired": SlotExpiredError,
        }.get(grant.state, SlotConsumedError)

    def to_tell(self) -> tuple[OwnerId, ...]:
        if self.draining:
            return ()
        told: list[OwnerId] = []
        for owner, _ in self.refused:
            if owner not in told and any(name == owner and slots <= self.free for name, slots in self.refused):
                told.append(owner)
        self.refused = [(owner, slots) for owner, slots in self.refused if owner not in told]
        return tuple(told)


class LedgerMachine(RuleBasedStateMachine):
    """Runs any sequence of operations on both and compares every answer."""

    tokens: Bundle[str] = Bundle("tokens")
    runs: Bundle[tuple[Run, Grant]] = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.minted = 0
        self.model = Model(capacity=3)
        self.ledger = SlotLedger(replica_id=ME, epoch=1, capacity=3)
        self.owner_comes(OwnerId("a"))

    @rule(seconds=st.integers(1, 6))
    def time_passes_unnoticed(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def time_is_noticed(self) -> None:
        before = len(self.model.of("reserved"))
        self.model.pass_time(self.now)
        assert self.ledger.expire(self.now) == before - len(self.model.of("reserved"))

    @rule(target=tokens, slots=SLOTS, ttl=TTLS, owner=OWNERS, request_id=st.sampled_from(["", "r1"]))
    def reserve(self, slots: int, ttl: int, owner: OwnerId | None, request_id: str) -> str:
        self.minted += 1
        secret = f"{self.minted:032x}"
        answer = self.ledger.reserve(
            slots=slots, ttl_s=ttl, request_id=request_id, owner=owner, now=self.now, secret=secret
        )
        self.model.pass_time(self.now)
        for grant in self.model.of("reserved") + self.model.of("ongoing"):
            if request_id and grant.request_id == request_id:
                assert isinstance(answer, Lease)
                assert (str(answer.token), answer.slots) == (grant.token, grant.slots)
                grant.owner = owner if grant.owner is not None else None
                return grant.token
        rejection = self.model.refusal(slots, owner)
        if rejection is not None:
            assert answer is rejection
            return f"{secret}.{self.model.epoch}.{ME}"
        token = f"{secret}.{self.model.epoch}.{ME}"
        self.model.grants.append(Grant(token, slots, owner, request_id, ttl, self.now + ttl, "reserved"))
        assert isinstance(answer, Lease)
        assert (str(answer.token), answer.slots, answer.expires_at) == (token, slots, self.now + ttl)
        return token

    @rule(target=runs, token=tokens)
    def dispatch(self, token: str) -> tuple[Run, Grant]:
        self.model.pass_time(self.now)
        complaint = self.model.complaint(token)
        if complaint is not None:
            with pytest.raises(complaint):
                self.ledger.dispatch(token, now=self.now)
            return Run(1), Grant("", 1, state="over")
        run = self.ledger.dispatch(token, now=self.now)
        grant = self.model.find(token)
        assert grant is not None
        grant.state = "ongoing"
        return run, grant

    @rule(target=runs, slots=SLOTS, owner=OWNERS)
    def start(self, slots: int, owner: OwnerId | None) -> tuple[Run, Grant]:
        self.model.pass_time(self.now)
        rejection = self.model.refusal(slots, owner)
        if rejection is not None:
            with pytest.raises(REFUSALS[rejection]):
                self.ledger.start(slots=slots, owner=owner, now=self.now)
            return Run(1), Grant("", 1, state="over")
        run = self.ledger.start(slots=slots, owner=owner, now=self.now)
        grant = Grant("", slots)
        self.model.grants.append(grant)
        return run, grant

    @rule(pair=runs, ok=st.booleans())
    def finish(self, pair: tuple[Run, Grant], ok: bool) -> None:
        run, grant = pair
        if grant.state == "over":
            return
        assert self.ledger.finish(run, ok=ok, now=self.now) is (grant.state == "ongoing")
        if grant.state == "ongoing":
            grant.state = "ok" if ok else "error"

    @rule(target=tokens, token=tokens, epochs=st.sampled_from([-1, 1]))
    def forge(self, token: str, epochs: int) -> str:
        secret, epoch, replica_id = token.split(".", 2)
        return f"{secret}.{max(0, int(epoch) + epochs)}.{replica_id}"

    @rule(token=tokens)
    def release(self, token: str) -> None:
        self.model.pass_time(self.now)
        grant = self.model.find(token)
        was_reserved = grant is not None and grant.state == "reserved"
        assert self.ledger.release(token, now=self.now) is was_reserved
        if grant is not None and was_reserved:
            grant.state = "released"

    @rule(token=tokens, ttl=TTLS, detach=st.booleans())
    def renew(self, token: str, ttl: int, detach: bool) -> None:
        self.model.pass_time(self.now)
        complaint = self.model.complaint(token)
        if complaint is not None:
            with pytest.raises(complaint):
                self.ledger.renew(token, ttl_s=ttl, detach=detach, now=self.now)
            return
        lease = self.ledger.renew(token, ttl_s=ttl, detach=detach, now=self.now)
        grant = self.model.find(token)
        assert grant is not None
        if detach:
            grant.owner = None
        if not self.model.draining:
            grant.ttl, grant.end = ttl, self.now + ttl
        assert (lease.expires_at, lease.ttl_s) == (grant.end, grant.ttl)

    @rule(owner=st.sampled_from([OwnerId("a"), OwnerId("b")]))
    def owner_comes(self, owner: OwnerId) -> None:
        self.ledger.owner_came(owner)
        if owner not in self.model.listening:
            self.model.listening.append(owner)

    @rule(owner=st.sampled_from([OwnerId("a"), OwnerId("b")]))
    def owner_goes(self, owner: OwnerId) -> None:
        owned = [grant for grant in self.model.of("reserved") if grant.owner == owner]
        assert self.ledger.owner_gone(owner, now=self.now) == len(owned)
        for grant in owned:
            grant.state = "expired"
        self.model.listening = [name for name in self.model.listening if name != owner]
        self.model.refused = [(name, slots) for name, slots in self.model.refused if name != owner]

    @rule()
    def tell(self) -> None:
        assert self.ledger.owners_to_tell() == self.model.to_tell()

    @rule(capacity=st.integers(1, 5))
    def resize(self, capacity: int) -> None:
        self.ledger.resize(capacity)
        self.model.capacity = capacity

    @rule()
    def fence(self) -> None:
        reserved = self.model.of("reserved")
        assert self.ledger.fence(self.model.epoch + 1, now=self.now) == len(reserved)
        self.model.epoch += 1
        for grant in reserved:
            grant.state = "fenced"

    @precondition(lambda self: self.minted > LATE)
    @rule()
    def drain(self) -> None:
        self.ledger.drain()
        self.model.draining = True

    @precondition(lambda self: self.minted > LATE)
    @rule()
    def close(self) -> None:
        reserved = self.model.of("reserved")
        assert self.ledger.close(now=self.now) == len(reserved)
        self.model.draining = True
        for grant in reserved:
            grant.state = "expired"

    @invariant()
    def they_agree(self) -> None:
        self.ledger.check()
        reserved, ongoing = self.model.of("reserved"), self.model.of("ongoing")
        load = self.ledger.load
        assert load.reserved == sum(grant.slots for grant in reserved)
        assert load.ongoing == sum(grant.slots for grant in ongoing)
        assert load.capacity == self.model.capacity
        assert load.free == max(0, self.model.free)
        counters = self.ledger.counters
        for name in ("released", "expired", "fenced", "reserved", "ongoing"):
            assert getattr(counters, name) == len(self.model.of(name))
        assert counters.dispatched_ok == len(self.model.of("ok"))
        assert counters.dispatched_error == len(self.model.of("error"))
        assert counters.issued == len(self.model.grants)
        assert self.ledger.idle is (not reserved and not ongoing)
        assert self.ledger.deadline() == min((grant.end for grant in reserved), default=None)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
