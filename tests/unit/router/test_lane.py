"""Waiting and handing out."""

from __future__ import annotations

import gc
import random
from contextlib import suppress

import pytest

from router.core.choice import PowerOfTwo, RoundRobin
from router.core.lane import RETRY_AFTER_MIN_S, Lane
from router.core.load import PROBE_S, ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome, outcome
from serve_core.errors import (
    ApplicationError,
    ConfigInvalidError,
    DeploymentUnavailableError,
    DrainingError,
    NoSlotError,
    NoSlotInTimeError,
    QueueFullError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    ServeError,
)
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.load import Load


@pytest.fixture
def lane() -> Lane:
    return Lane(DeploymentKey("app", "Model"), RoundRobin(), max_queued_requests=2)


def connect(lane: Lane, name: str = "r", *, capacity: int = 1) -> ReplicaLoad:
    replica = lane.add(ReplicaId(name))
    lane.pushed(replica, Load(0, 0, capacity), draining=False)
    return replica


def enter(lane: Lane, *, slots: int = 1, deadline: float | None = None, now: float = 1.0) -> Waiter:
    return lane.enter(slots=slots, deadline=deadline, now=now)


def test_it_waits_until_a_replica_comes(lane: Lane) -> None:
    waiter = enter(lane)
    assert lane.settle(1.0) == []
    replica = connect(lane)
    assert lane.settle(1.0) == [waiter]
    assert waiter.replica is replica


def test_a_freed_slot_goes_to_the_first(lane: Lane) -> None:
    connect(lane)
    running, first, second = enter(lane), enter(lane), enter(lane)
    lane.finish(running, 2.0)
    assert lane.settle(2.0) == [first]
    assert second.replica is None


@pytest.mark.parametrize("load", [Load(1, 0, 2), Load(2, 1, 4), Load(5, 0, 3), Load(0, 0, 0)])
def test_a_load_told_at_the_end_is_what_it_is_when_told_before(load: Load) -> None:
    estimates = []
    for at_the_end in (True, False):
        lane = Lane(DeploymentKey("app", "Model"), RoundRobin(), max_queued_requests=2)
        replica = connect(lane, capacity=3)
        enter(lane)
        running = enter(lane, slots=2)
        if not at_the_end:
            lane.told(replica, load, freed=2)
        lane.finish(running, 2.0, load=load if at_the_end else None)
        fits = [replica.fit(slots) for slots in (1, 2, 3)]
        estimates.append((replica.own, replica.others, replica.capacity, replica.placed, fits))
    assert estimates[0] == estimates[1]


def test_nobody_overtakes(lane: Lane) -> None:
    connect(lane, capacity=2)
    enter(lane)
    heavy = enter(lane, slots=2)
    light = enter(lane)
    assert (heavy.replica, light.replica) == (None, None)


def test_the_limit_is_exact_and_names_a_time(lane: Lane) -> None:
    connect(lane)
    enter(lane), enter(lane), enter(lane)
    with pytest.raises(QueueFullError) as full:
        enter(lane)
    assert full.value.retry_after_s == RETRY_AFTER_MIN_S
    assert full.value.details["queued"] == "2"


@pytest.mark.parametrize(("limit", "waiting"), [(0, 0), (-1, 50)])
def test_limits_of_none_and_of_no_limit(lane: Lane, limit: int, waiting: int) -> None:
    lane.max_queued_requests = limit
    connect(lane)
    for _ in range(waiting + 1):
        enter(lane)
    assert len(lane.queue) == waiting
    if limit == 0:
        with pytest.raises(QueueFullError):
            enter(lane)


def test_the_hint_follows_how_long_requests_take(lane: Lane) -> None:
    connect(lane)
    for _ in range(100):
        waiter = enter(lane, now=0.0)
        lane.finish(waiter, 3.0)
    enter(lane), enter(lane), enter(lane)
    with pytest.raises(QueueFullError) as full:
        enter(lane)
    assert full.value.retry_after_s == pytest.approx(6.0, rel=0.01)


def test_a_refused_one_takes_its_old_place(lane: Lane) -> None:
    replica = connect(lane)
    refused, later = enter(lane), enter(lane)
    lane.finish(refused, 1.0, outcome=Outcome.FULL)
    lane.put_back(refused)
    assert lane.settle(1.0) == []
    assert list(lane.queue) == [refused, later]
    lane.pushed(replica, Load(0, 0, 1), draining=False)
    assert lane.settle(1.0) == [refused]


def test_expired_ones_are_dropped_first(lane: Lane) -> None:
    connect(lane)
    running, late, fine = enter(lane), enter(lane, deadline=2.0), enter(lane)
    lane.finish(running, 3.0)
    assert lane.settle(3.0) == [late, fine]
    assert late.replica is None
    assert isinstance(late.error, NoSlotInTimeError)
    assert late.error.details["waitedS"] == "2.000"
    assert late.error.details["position"] == "1"
    assert fine.replica is not None


def test_expiry_names_the_place(lane: Lane) -> None:
    connect(lane)
    enter(lane), enter(lane)
    late = enter(lane, deadline=2.0)
    assert lane.expire(late, 2.0)
    assert "position 2 of 2" in str(late.error)
    assert not lane.expire(late, 2.0)


def test_too_late_on_arrival(lane: Lane) -> None:
    connect(lane)
    with pytest.raises(NoSlotInTimeError):
        enter(lane, deadline=1.0, now=1.0)


def test_an_answer_may_tell_of_more_slots(lane: Lane) -> None:
    replica = connect(lane, capacity=1)
    running = enter(lane)
    with pytest.raises(ConfigInvalidError):
        enter(lane, slots=2)
    lane.told(replica, Load(1, 0, 2))
    heavy = enter(lane, slots=2)
    lane.finish(running, 1.0)
    assert lane.settle(1.0) == [heavy]
    assert heavy.replica is replica


@pytest.mark.parametrize(("mine", "told", "others"), [(1, 3, 3), (3, 3, 1), (3, 1, 0)])
def test_an_end_that_tells_the_load_is_as_both_one_after_the_other(
    lane: Lane, mine: int, told: int, others: int
) -> None:
    apart = Lane(DeploymentKey("app", "Model"), RoundRobin(), max_queued_requests=2)
    replica, twin = connect(lane, capacity=4), connect(apart, capacity=4)
    waiters, twins = [enter(lane) for _ in range(mine)], [enter(apart) for _ in range(mine)]
    lane.finish(waiters[0], 2.0, load=Load(told, 0, 8))
    apart.told(twin, Load(told, 0, 8), freed=1)
    apart.finish(twins[0], 2.0)
    assert (replica.own, replica.others, replica.capacity) == (mine - 1, others, 8)
    assert (twin.own, twin.others, twin.capacity) == (mine - 1, others, 8)


def test_what_weighs_too_much(lane: Lane) -> None:
    unknown = enter(lane, slots=3)
    connect(lane, capacity=2)
    assert lane.settle(1.0) == [unknown]
    assert isinstance(unknown.error, ConfigInvalidError)
    with pytest.raises(ConfigInvalidError):
        enter(lane, slots=3)


def test_leaving_and_closing(lane: Lane) -> None:
    one, two = enter(lane), enter(lane)
    lane.leave(one)
    closed = lane.close(lambda: DeploymentUnavailableError("no"))
    assert closed == [two]
    assert isinstance(two.error, DeploymentUnavailableError)
    assert one.error is None


def test_a_removed_replica_gets_nothing_and_may_finish(lane: Lane) -> None:
    replica = connect(lane)
    running = enter(lane)
    lane.remove(replica)
    lane.finish(running, 2.0)
    lane.pushed(replica, Load(0, 0, 1), draining=False)
    assert enter(lane).replica is None
    assert replica.own == 0


def test_probes_end_by_time_only_while_somebody_waits(lane: Lane) -> None:
    replica = connect(lane)
    lane.pushed(replica, Load(2, 0, 3), draining=False)
    lane.pushed(replica, Load(3, 0, 3), draining=False)
    probe = enter(lane)
    assert probe.replica is replica
    assert lane.probe_ends_at() is None
    second = enter(lane)
    assert lane.probe_ends_at() == 1.0 + PROBE_S
    lane.settle_probes(1.0 + PROBE_S)
    assert lane.settle(1.0 + PROBE_S) == [second]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoSlotError("x"), Outcome.FULL),
        (DrainingError("x"), Outcome.DRAINING),
        (ReplicaUnavailableError("x"), Outcome.UNREACHABLE),
        (ReplicaDiedError("x"), Outcome.FINAL),
        (ApplicationError("x"), Outcome.FINAL),
        (QueueFullError("x"), Outcome.FINAL),
    ],
)
def test_only_what_proves_that_nothing_ran_is_tried_again(error: ServeError, expected: Outcome) -> None:
    assert outcome(error) is expected


@pytest.mark.parametrize("heaviest", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_replica_is_placed_as_it_fits(seed: int, heaviest: int) -> None:
    chance = random.Random(seed)
    lane = Lane(DeploymentKey("app", "Model"), PowerOfTwo(chance.random), max_queued_requests=5)
    replicas = [connect(lane, f"r{number}", capacity=4) for number in range(4)]
    sent: list[Waiter] = []
    now = 1.0
    for _ in range(2_000):
        now += chance.random() / 50
        told = Load(chance.randrange(4), chance.randrange(3), chance.choice((2, 4, 4, 4)))
        match chance.randrange(8):
            case 0 | 1 | 2:
                with suppress(QueueFullError, ConfigInvalidError):
                    sent.append(enter(lane, slots=chance.randint(1, heaviest), now=now))
            case 3 | 4 if sent:
                waiter = sent.pop(chance.randrange(len(sent)))
                lane.leave(waiter)
                ended = chance.choice((Outcome.FINAL, Outcome.FINAL, *Outcome))
                lane.finish(waiter, now, outcome=ended, load=chance.choice((None, told)))
            case 5:
                lane.told(chance.choice(replicas), told)
            case 6:
                lane.pushed(chance.choice(replicas), told, draining=chance.random() < 0.1)
            case _:
                lane.lost(chance.choice(replicas), reachable=chance.random() < 0.8)
        lane.settle_probes(now)
        lane.settle(now)
        assert [replica.placed for replica in replicas] == [replica.fit() for replica in replicas]


def test_what_left_is_forgotten() -> None:
    lane = Lane(DeploymentKey("app", "Model"), PowerOfTwo(random.Random(3).random), max_queued_requests=-1)
    stays = connect(lane, "stays", capacity=4)
    for number in range(500):
        comes = connect(lane, f"r{number}", capacity=4)
        waiters = [enter(lane), enter(lane, slots=2), lane.enter(slots=1, deadline=None, now=1.0, whole_gang=True)]
        lane.pushed(comes, Load(4, 0, 4), draining=False)
        waiters += [enter(lane, slots=slots) for slots in (1, 2, 3)]
        lane.remove(comes)
        for waiter in waiters:
            lane.leave(waiter)
            lane.finish(waiter, 1.0)
        lane.pushed(stays, Load(0, 0, 4), draining=False)
    del comes, waiters, waiter
    assert list(lane.replicas) == [stays]
    known = [one for one in gc.get_objects() if isinstance(one, ReplicaLoad) and one.replica_id.startswith("r")]
    # What is ranked is forgotten a little later: with a margin, and for each of three weights and the gangs.
    assert len(known) < 4 * 2 * 70
