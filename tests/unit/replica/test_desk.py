"""The desk: when the process stood still, it takes nothing new until the controller is heard."""

from __future__ import annotations

import pytest

from replica.core.leases import LeasePolicy
from replica.desk import SlotDesk
from serve_core.errors import DrainingError
from serve_core.model.ids import ReplicaId
from serve_core.model.slots import Lease, Rejection
from serve_core.runtime import clock


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "monotonic", time)
    return time


def desk_of() -> SlotDesk:
    desk = SlotDesk(replica_id=ReplicaId("r"), epoch=1)
    desk.configure(capacity=4, leases=LeasePolicy(default_s=60, max_s=600), fence_limit_s=10)
    desk.open()
    return desk


def run(desk: SlotDesk, token: str = "") -> None:
    desk.admit(token=token, slots=1, owner=None).finish(ok=True)


def reserve(desk: SlotDesk) -> Lease | Rejection:
    return desk.reserve(slots=1, ttl_s=None, request_id="", owner=None)


def test_the_very_first_request_after_standing_still_is_refused(time: Time) -> None:
    desk = desk_of()
    run(desk)
    time.now += 10.5
    with pytest.raises(DrainingError):
        run(desk)
    assert desk.suspended
    assert not desk.draining
    with pytest.raises(DrainingError):
        run(desk)


async def test_so_is_a_reservation_but_what_was_promised_before_holds(time: Time) -> None:
    desk = desk_of()
    held = reserve(desk)
    assert isinstance(held, Lease)
    time.now += 10.5
    assert reserve(desk) is Rejection.DRAINING
    run(desk, str(held.token))


def test_it_takes_requests_again_once_a_newer_heartbeat_is_acknowledged(time: Time) -> None:
    desk = desk_of()
    told: list[bool] = []
    desk.on_fence(lambda: told.append(desk.suspended))
    desk.beat(1)
    time.now += 11
    desk.alive()
    assert told == [True]
    desk.acknowledged(1)
    with pytest.raises(DrainingError):
        run(desk)
    desk.beat(2)
    desk.acknowledged(2)
    assert told == [True, False]
    run(desk)


def test_a_heartbeat_of_its_own_first_notices_how_late_it_is(time: Time) -> None:
    desk = desk_of()
    time.now += 11
    desk.beat(5)
    assert desk.suspended
    desk.acknowledged(5)
    assert not desk.suspended


def test_idle_time_is_no_standing_still_as_long_as_the_process_runs(time: Time) -> None:
    desk = desk_of()
    for _ in range(50):
        time.now += 1
        desk.alive()
    run(desk)


def test_a_drain_is_not_taken_back_by_an_acknowledgement(time: Time) -> None:
    desk = desk_of()
    time.now += 11
    desk.alive()
    desk.drain()
    desk.beat(1)
    desk.acknowledged(1)
    with pytest.raises(DrainingError):
        run(desk)
