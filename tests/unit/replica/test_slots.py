"""The slot ledger, operation by operation."""

from __future__ import annotations

import itertools

import pytest

from replica.core.slots import Run, SlotLedger
from serve_core.errors import (
    ConfigInvalidError,
    DrainingError,
    InvariantViolation,
    NoSlotError,
    SlotConsumedError,
    SlotExpiredError,
    SlotFencedError,
    SlotUnknownError,
)
from serve_core.model.ids import OwnerId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.slots import Lease, Rejection

ME = ReplicaId("app.dep.g1-0")
ROUTER_A, ROUTER_B = OwnerId("router-a"), OwnerId("router-b")


class Slots:
    """A ledger with a counter for secrets and the usual arguments filled in."""

    def __init__(self, capacity: int = 2, *, epoch: int = 1, history_limit: int = 100) -> None:
        self.ledger = SlotLedger(replica_id=ME, epoch=epoch, capacity=capacity, history_limit=history_limit)
        self._secrets = itertools.count()

    def try_reserve(
        self, *, slots: int = 1, ttl_s: float = 10, request_id: str = "", owner: OwnerId | None = None, now: float = 0
    ) -> Lease | Rejection:
        secret = f"{next(self._secrets):032x}"
        return self.ledger.reserve(slots=slots, ttl_s=ttl_s, request_id=request_id, owner=owner, now=now, secret=secret)

    def reserve(
        self, *, slots: int = 1, ttl_s: float = 10, request_id: str = "", owner: OwnerId | None = None, now: float = 0
    ) -> str:
        lease = self.try_reserve(slots=slots, ttl_s=ttl_s, request_id=request_id, owner=owner, now=now)
        assert isinstance(lease, Lease)
        return str(lease.token)

    @property
    def load(self) -> Load:
        self.ledger.check()
        return self.ledger.load


def test_reserve_grants_a_lease_that_names_the_replica_and_counts_as_load() -> None:
    slots = Slots(capacity=3)
    lease = slots.try_reserve(slots=2, ttl_s=5, now=100)
    assert isinstance(lease, Lease)
    assert (lease.slots, lease.ttl_s, lease.expires_at) == (2, 5, 105)
    assert (lease.token.replica_id, lease.token.epoch) == (ME, 1)
    assert slots.load == Load(ongoing=0, reserved=2, capacity=3)


def test_reserve_never_waits_and_is_all_or_none() -> None:
    slots = Slots(capacity=3)
    slots.reserve(slots=2)
    assert slots.try_reserve(slots=2) is Rejection.FULL
    assert slots.try_reserve(slots=4) is Rejection.TOO_MANY
    assert slots.load == Load(0, 2, 3)
    slots.reserve(slots=1)
    assert slots.load == Load(0, 3, 3)


@pytest.mark.parametrize(("slots", "ttl_s"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_reserve_refuses_amounts_that_are_not_positive(slots: int, ttl_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Slots().try_reserve(slots=slots, ttl_s=ttl_s)


def test_the_same_request_id_gets_the_same_token_and_no_second_slot() -> None:
    slots = Slots()
    first = slots.try_reserve(request_id="r", now=0)
    assert slots.try_reserve(request_id="r", now=1) == first
    assert slots.load == Load(0, 1, 2)
    other = slots.reserve(request_id="r2")
    assert isinstance(first, Lease)
    assert other != str(first.token)


def test_the_same_request_id_gets_the_same_token_even_when_full_draining_or_in_use() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve(request_id="r")
    assert slots.reserve(request_id="r") == token
    slots.ledger.drain()
    assert slots.reserve(request_id="r") == token
    slots.ledger.dispatch(token, now=1)
    assert slots.reserve(request_id="r", owner=ROUTER_A) == token
    assert slots.load == Load(1, 0, 1)


@pytest.mark.parametrize("end", ["release", "expire", "finish"])
def test_the_same_request_id_gets_a_new_token_once_the_old_one_ended(end: str) -> None:
    slots = Slots(capacity=1)
    token = slots.reserve(request_id="r", ttl_s=5)
    if end == "release":
        slots.ledger.release(token, now=1)
    elif end == "finish":
        slots.ledger.finish(slots.ledger.dispatch(token, now=1), ok=True, now=2)
    assert slots.reserve(request_id="r", now=6) != token


def test_a_repeated_request_moves_the_token_to_the_owner_that_asked_last() -> None:
    slots = Slots()
    token = slots.reserve(request_id="r", owner=ROUTER_A)
    assert slots.reserve(request_id="r", owner=ROUTER_B) == token
    assert slots.ledger.owner_gone(ROUTER_A, now=1) == 0
    assert slots.ledger.owner_gone(ROUTER_B, now=1) == 1


def test_a_late_copy_of_a_request_does_not_bind_a_token_that_was_detached_since() -> None:
    slots = Slots()
    token = slots.reserve(request_id="r", owner=ROUTER_A)
    slots.ledger.renew(token, ttl_s=10, detach=True, now=1)
    assert slots.reserve(request_id="r", owner=ROUTER_A, now=2) == token
    assert slots.ledger.owner_gone(ROUTER_A, now=3) == 0
    slots.ledger.dispatch(token, now=4)


def test_dispatch_consumes_the_token_and_keeps_its_slots_to_the_end() -> None:
    slots = Slots()
    run = slots.ledger.dispatch(slots.reserve(slots=2), now=1)
    assert slots.load == Load(2, 0, 2)
    assert not slots.ledger.idle
    assert slots.ledger.finish(run, ok=True, now=2)
    assert slots.load == Load(0, 0, 2)
    assert slots.ledger.idle


def test_a_token_is_good_for_one_dispatch_while_it_runs_and_after() -> None:
    slots = Slots()
    token = slots.reserve()
    run = slots.ledger.dispatch(token, now=1)
    with pytest.raises(SlotConsumedError, match="dispatched"):
        slots.ledger.dispatch(token, now=1)
    slots.ledger.finish(run, ok=False, now=2)
    with pytest.raises(SlotConsumedError, match="dispatched"):
        slots.ledger.dispatch(token, now=3)
    assert slots.load == Load(0, 0, 2)


def test_finish_frees_once_however_often_it_is_called() -> None:
    slots = Slots(capacity=1)
    run = slots.ledger.start(now=0)
    assert slots.ledger.finish(run, ok=False, now=1)
    assert not slots.ledger.finish(run, ok=True, now=1)
    again = slots.ledger.start(now=2)
    assert not slots.ledger.finish(run, ok=True, now=3)
    assert slots.load == Load(1, 0, 1)
    assert slots.ledger.finish(again, ok=True, now=4)
    assert slots.ledger.counters.dispatched_error == 1
    assert slots.ledger.counters.dispatched_ok == 1


def test_a_call_without_a_token_takes_its_slots_at_once_or_is_refused() -> None:
    slots = Slots(capacity=2)
    run = slots.ledger.start(slots=2, now=0)
    with pytest.raises(NoSlotError) as refused:
        slots.ledger.start(now=0)
    assert refused.value.details["free"] == "0"
    slots.ledger.finish(run, ok=True, now=1)
    assert slots.ledger.start(now=2).slots == 1
    with pytest.raises(ConfigInvalidError, match="has 2 in all"):
        slots.ledger.start(slots=3, now=2)
    with pytest.raises(ValueError, match="slots must be positive"):
        slots.ledger.start(slots=0, now=2)


def test_a_reservation_takes_room_from_calls_without_a_token() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve()
    with pytest.raises(NoSlotError):
        slots.ledger.start(now=0)
    slots.ledger.release(token, now=1)
    slots.ledger.start(now=1)


def test_release_is_idempotent_and_says_whether_it_freed() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve()
    assert slots.ledger.release(token, now=1)
    assert not slots.ledger.release(token, now=1)
    assert slots.load == Load(0, 0, 1)
    with pytest.raises(SlotConsumedError, match="released"):
        slots.ledger.dispatch(token, now=2)


def test_release_of_a_token_in_use_does_nothing() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve()
    slots.ledger.dispatch(token, now=1)
    assert not slots.ledger.release(token, now=2)
    assert slots.load == Load(1, 0, 1)


def test_release_of_a_forgotten_or_fenced_token_does_nothing() -> None:
    slots = Slots(epoch=2)
    token = slots.reserve()
    assert not slots.ledger.release(f"{'f' * 32}.2.{ME}", now=0)
    assert not slots.ledger.release(token.replace(".2.", ".1.", 1), now=0)
    assert slots.load.reserved == 1


@pytest.mark.parametrize(
    "token", ["", "garbage", "\x00\xff", "f" * 32, f"{'F' * 32}.1.{ME}", f"{'f' * 32}.1.other-0", "x" * 100_000]
)
def test_what_cannot_be_a_token_of_this_replica_is_unknown(token: str) -> None:
    ledger = Slots().ledger
    for use in (ledger.dispatch, ledger.release):
        with pytest.raises(SlotUnknownError) as refused:
            use(token, now=0)
        assert len(str(refused.value)) < 400
        assert refused.value.details["slotToken"].isascii()
    with pytest.raises(SlotUnknownError):
        ledger.renew(token, ttl_s=1, now=0)


def test_a_well_formed_token_that_was_never_issued_is_unknown() -> None:
    with pytest.raises(SlotUnknownError, match="never issued"):
        Slots().ledger.dispatch(f"{'f' * 32}.1.{ME}", now=0)


def test_a_lease_that_is_over_frees_its_slots_and_refuses_its_token() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve(ttl_s=5, now=10)
    assert slots.ledger.deadline() == 15
    assert slots.ledger.expire(14.9) == 0
    assert slots.ledger.expire(15) == 1
    assert slots.ledger.deadline() is None
    assert slots.load == Load(0, 0, 1)
    with pytest.raises(SlotExpiredError):
        slots.ledger.dispatch(token, now=16)
    assert not slots.ledger.release(token, now=16)


def test_a_paused_caller_gets_expired_even_if_nobody_was_woken_for_the_lease() -> None:
    slots = Slots(capacity=1)
    token = slots.reserve(ttl_s=5)
    with pytest.raises(SlotExpiredError):
        slots.ledger.dispatch(token, now=60)
    slots.ledger.start(now=60)
    assert slots.load == Load(1, 0, 1)


@pytest.mark.parametrize("how", ["reserve", "start", "renew"])
def test_a_lease_that_is_over_makes_room_for_whoever_comes_next(how: str) -> None:
    slots = Slots(capacity=1)
    token = slots.reserve(ttl_s=5)
    if how == "reserve":
        slots.reserve(now=5)
    elif how == "start":
        slots.ledger.start(now=5)
    else:
        with pytest.raises(SlotExpiredError):
            slots.ledger.renew(token, ttl_s=5, now=5)
    assert slots.ledger.counters.expired == 1


def test_a_dispatched_token_does_not_expire() -> None:
    slots = Slots(capacity=1)
    slots.ledger.dispatch(slots.reserve(ttl_s=5), now=4)
    assert slots.ledger.deadline() is None
    assert slots.ledger.expire(1000) == 0
    assert slots.load == Load(1, 0, 1)


def test_renew_starts_the_time_to_live_anew() -> None:
    slots = Slots()
    token = slots.reserve(ttl_s=5)
    lease = slots.ledger.renew(token, ttl_s=7, now=4)
    assert (lease.ttl_s, lease.expires_at, str(lease.token)) == (7, 11, token)
    assert slots.ledger.expire(10) == 0
    assert slots.ledger.deadline() == 11
    with pytest.raises(ValueError, match="ttl_s"):
        slots.ledger.renew(token, ttl_s=0, now=10)
    slots.ledger.dispatch(token, now=10)
    with pytest.raises(SlotConsumedError):
        slots.ledger.renew(token, ttl_s=5, now=10)


def test_the_tokens_of_an_owner_end_with_it() -> None:
    slots = Slots(capacity=4)
    slots.ledger.owner_came(ROUTER_A)
    held = slots.reserve(owner=ROUTER_A)
    used = slots.reserve(owner=ROUTER_A)
    slots.ledger.dispatch(used, now=0)
    slots.reserve(owner=ROUTER_B)
    slots.reserve()
    assert slots.ledger.owner_gone(ROUTER_A, now=1) == 1
    assert slots.ledger.owner_gone(ROUTER_A, now=1) == 0
    assert slots.load == Load(ongoing=1, reserved=2, capacity=4)
    with pytest.raises(SlotExpiredError, match="connection"):
        slots.ledger.dispatch(held, now=1)


def test_a_detached_token_outlives_its_owner_but_not_its_lease() -> None:
    slots = Slots()
    token = slots.reserve(owner=ROUTER_A, ttl_s=5)
    slots.ledger.renew(token, ttl_s=5, detach=True, now=1)
    assert slots.ledger.owner_gone(ROUTER_A, now=2) == 0
    slots.ledger.dispatch(token, now=5)
    other = slots.reserve(owner=ROUTER_A, ttl_s=5, now=5)
    slots.ledger.renew(other, ttl_s=5, detach=True, now=5)
    assert slots.ledger.expire(10) == 1


def test_a_token_of_another_epoch_is_fenced() -> None:
    slots = Slots(epoch=3)
    token = slots.reserve()
    for epoch in (2, 4):
        with pytest.raises(SlotFencedError) as refused:
            slots.ledger.dispatch(token.replace(".3.", f".{epoch}.", 1), now=0)
        assert refused.value.details == {"replicaId": ME, "epoch": str(epoch), "currentEpoch": "3"}
    slots.ledger.dispatch(token, now=0)


def test_fencing_ends_the_promises_of_earlier_epochs_and_lets_calls_go_on() -> None:
    slots = Slots(capacity=3, epoch=1)
    old, used = slots.reserve(), slots.reserve()
    run = slots.ledger.dispatch(used, now=0)
    assert slots.ledger.fence(2, now=1) == 1
    assert slots.load == Load(1, 0, 3)
    with pytest.raises(SlotFencedError):
        slots.ledger.dispatch(old, now=1)
    assert not slots.ledger.release(old, now=1)
    slots.ledger.dispatch(slots.reserve(), now=1)
    assert slots.ledger.finish(run, ok=True, now=2)
    assert slots.ledger.counters.fenced == 1
    with pytest.raises(ValueError, match="not above 2"):
        slots.ledger.fence(2, now=2)
    assert slots.load == Load(1, 0, 3)


def test_capacity_changes_live_also_below_what_is_held() -> None:
    slots = Slots(capacity=3)
    runs = [slots.ledger.start(now=0) for _ in range(3)]
    slots.ledger.resize(1)
    assert slots.load == Load(3, 0, 1)
    assert slots.load.free == 0
    slots.ledger.finish(runs[0], ok=True, now=1)
    slots.ledger.finish(runs[1], ok=True, now=1)
    with pytest.raises(NoSlotError):
        slots.ledger.start(now=1)
    slots.ledger.finish(runs[2], ok=True, now=1)
    slots.ledger.start(now=1)
    slots.ledger.resize(2)
    slots.ledger.start(now=1)
    assert slots.load == Load(2, 0, 2)
    with pytest.raises(ValueError, match="capacity"):
        slots.ledger.resize(0)


def test_a_token_held_before_capacity_shrank_is_honoured() -> None:
    slots = Slots(capacity=2)
    tokens = [slots.reserve(), slots.reserve()]
    slots.ledger.resize(1)
    for token in tokens:
        slots.ledger.dispatch(token, now=1)
    assert slots.load == Load(2, 0, 1)


def test_draining_refuses_what_is_new_and_honours_what_is_held() -> None:
    slots = Slots(capacity=3)
    token, other = slots.reserve(ttl_s=5), slots.reserve(ttl_s=5)
    slots.ledger.drain()
    assert slots.ledger.draining
    assert slots.try_reserve() is Rejection.DRAINING
    with pytest.raises(DrainingError):
        slots.ledger.start(now=0)
    slots.ledger.dispatch(token, now=1)
    assert slots.ledger.expire(5) == 1
    with pytest.raises(SlotExpiredError):
        slots.ledger.dispatch(other, now=5)


def test_while_draining_a_lease_is_not_prolonged_but_can_be_detached() -> None:
    slots = Slots()
    token = slots.reserve(ttl_s=5, owner=ROUTER_A)
    slots.ledger.drain()
    lease = slots.ledger.renew(token, ttl_s=50, detach=True, now=3)
    assert (lease.expires_at, lease.ttl_s) == (5, 5)
    assert slots.ledger.owner_gone(ROUTER_A, now=3) == 0


def test_close_ends_every_promise_that_is_not_in_use() -> None:
    slots = Slots()
    held, used = slots.reserve(), slots.reserve()
    run = slots.ledger.dispatch(used, now=0)
    assert slots.ledger.close(now=1) == 1
    assert not slots.ledger.idle
    with pytest.raises(SlotExpiredError):
        slots.ledger.dispatch(held, now=1)
    slots.ledger.finish(run, ok=True, now=2)
    assert slots.ledger.idle


def test_refused_owners_are_told_in_order_once_a_slot_frees() -> None:
    slots = Slots(capacity=1)
    for owner in (ROUTER_A, ROUTER_B):
        slots.ledger.owner_came(owner)
    run = slots.ledger.start(now=0)
    assert slots.try_reserve(owner=ROUTER_B) is Rejection.FULL
    for _ in range(2):
        with pytest.raises(NoSlotError):
            slots.ledger.start(owner=ROUTER_A, now=0)
    assert slots.try_reserve(owner=ROUTER_B) is Rejection.FULL
    assert slots.ledger.owners_to_tell() == ()
    slots.ledger.finish(run, ok=True, now=1)
    assert slots.ledger.owners_to_tell() == (ROUTER_B, ROUTER_A)
    assert slots.ledger.owners_to_tell() == ()


def test_an_owner_is_told_when_what_it_wanted_fits() -> None:
    slots = Slots(capacity=3)
    slots.ledger.owner_came(ROUTER_A)
    runs = [slots.ledger.start(now=0) for _ in range(3)]
    assert slots.try_reserve(slots=2, owner=ROUTER_A) is Rejection.FULL
    slots.ledger.finish(runs[0], ok=True, now=1)
    assert slots.ledger.owners_to_tell() == ()
    slots.ledger.finish(runs[1], ok=True, now=1)
    assert slots.ledger.owners_to_tell() == (ROUTER_A,)


def test_owners_that_do_not_listen_or_listen_no_more_are_not_told() -> None:
    slots = Slots(capacity=1)
    slots.ledger.owner_came(ROUTER_A)
    slots.ledger.owner_came(ROUTER_A)
    token = slots.reserve()
    slots.try_reserve(owner=ROUTER_A)
    slots.try_reserve(owner=ROUTER_B)
    slots.try_reserve()
    slots.ledger.owner_gone(ROUTER_A, now=1)
    slots.ledger.release(token, now=1)
    assert slots.ledger.owners_to_tell() == ()


def test_nobody_is_told_of_freed_slots_while_draining() -> None:
    slots = Slots(capacity=1)
    slots.ledger.owner_came(ROUTER_A)
    token = slots.reserve()
    slots.try_reserve(owner=ROUTER_A)
    slots.ledger.drain()
    slots.ledger.release(token, now=1)
    assert slots.ledger.owners_to_tell() == ()


def test_every_promise_ends_in_exactly_one_way() -> None:
    slots = Slots(capacity=10)
    tokens = [slots.reserve(ttl_s=10) for _ in range(6)]
    slots.ledger.finish(slots.ledger.dispatch(tokens[0], now=1), ok=True, now=2)
    slots.ledger.finish(slots.ledger.dispatch(tokens[1], now=1), ok=False, now=2)
    slots.ledger.release(tokens[2], now=1)
    slots.ledger.renew(tokens[3], ttl_s=2, now=1)
    slots.ledger.expire(3)
    slots.ledger.fence(2, now=3)
    slots.ledger.start(now=3)
    slots.reserve(now=3)
    assert slots.ledger.counters == (8, 1, 1, 1, 1, 2, 1, 1)
    assert slots.ledger.counters.ended == 6
    slots.ledger.check()


def test_the_memory_of_ended_tokens_is_bounded() -> None:
    slots = Slots(capacity=1, history_limit=2)
    tokens = []
    for now in range(3):
        tokens.append(slots.reserve(now=now))
        slots.ledger.release(tokens[-1], now=now)
    slots.ledger.check()
    with pytest.raises(SlotUnknownError, match="forgotten"):
        slots.ledger.dispatch(tokens[0], now=4)
    with pytest.raises(SlotConsumedError):
        slots.ledger.dispatch(tokens[1], now=4)


def test_a_secret_that_repeats_is_a_bug() -> None:
    ledger = Slots(capacity=5).ledger
    secret = "a" * 32
    lease = ledger.reserve(ttl_s=1, now=0, secret=secret)
    assert isinstance(lease, Lease)
    with pytest.raises(InvariantViolation, match="twice"):
        ledger.reserve(ttl_s=1, now=0, secret=secret)
    ledger.release(str(lease.token), now=0)
    with pytest.raises(InvariantViolation, match="twice"):
        ledger.reserve(ttl_s=1, now=0, secret=secret)


def test_check_tells_what_is_wrong_and_what_led_there() -> None:
    slots = Slots()
    slots.ledger.start(now=1.5)
    slots.ledger.check()
    slots.ledger.finish(Run(1), ok=True, now=2.5)
    slots.ledger.finish(Run(1), ok=True, now=3.5)
    with pytest.raises(InvariantViolation, match="ongoing calls") as violation:
        slots.ledger.check()
    assert violation.value.story == (
        "1.500 ongoing (no token)",
        "2.500 dispatched-ok (no token)",
        "3.500 dispatched-ok (no token)",
    )


def test_suspended_it_takes_nothing_new_and_keeps_what_it_promised() -> None:
    ledger = SlotLedger(replica_id=ReplicaId("r"), epoch=1, capacity=4)
    held = ledger.reserve(ttl_s=10, now=0, secret="a" * 32)
    assert isinstance(held, Lease)
    ledger.suspended = True
    assert ledger.reserve(ttl_s=10, now=1, secret="b" * 32) is Rejection.DRAINING
    with pytest.raises(DrainingError):
        ledger.start(now=1)
    assert ledger.renew(str(held.token), ttl_s=10, now=2).expires_at == 12
    assert ledger.finish(ledger.dispatch(str(held.token), now=3), ok=True, now=4)
    assert not ledger.draining
    ledger.suspended = False
    assert ledger.finish(ledger.start(now=5), ok=True, now=6)
    ledger.check()
