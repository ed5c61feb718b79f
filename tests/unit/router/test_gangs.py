"""Whole gangs: when they are, and which one is next."""

from __future__ import annotations

import pytest

from router.core.choice import RoundRobin
from router.core.gangs import GangLoad, Gangs
from router.core.lane import Lane
from router.core.load import Fit, ReplicaLoad
from router.core.queue import Waiter
from router.core.retry import Outcome
from serve_core.errors import ConfigInvalidError, NoSlotInTimeError
from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, GangId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.replica import Gang


@pytest.fixture
def lane() -> Lane:
    return Lane(DeploymentKey("app", "Model"), RoundRobin(), max_queued_requests=5)


def place(gang: str, rank: int, *, size: int = 2, epoch: int = 1) -> Gang:
    return Gang(gang_id=GangId(gang), rank=rank, size=size, epoch=epoch)


def join(lane: Lane, gang: str, rank: int, *, size: int = 2, epoch: int = 1, capacity: int = 1) -> ReplicaLoad:
    replica = lane.add(ReplicaId(f"{gang}-{rank}"), place(gang, rank, size=size, epoch=epoch))
    lane.pushed(replica, Load(0, 0, capacity), draining=False)
    return replica


def join_all(lane: Lane, gang: str, *, size: int = 2, capacity: int = 1) -> list[ReplicaLoad]:
    return [join(lane, gang, rank, size=size, capacity=capacity) for rank in range(size)]


def call(lane: Lane, *, now: float = 1.0) -> Waiter:
    return lane.enter(slots=1, deadline=None, now=now)


def reserve(lane: Lane, *, slots: int = 1, deadline: float | None = None, now: float = 1.0) -> Waiter:
    return lane.enter(slots=slots, deadline=deadline, now=now, whole_gang=True)


def test_nothing_goes_to_a_part_of_a_gang(lane: Lane) -> None:
    join(lane, "a", 0)
    waiting, reserving = call(lane), reserve(lane)
    assert lane.settle(1.0) == []
    join(lane, "a", 1)
    assert lane.settle(1.0) == [waiting]
    lane.finish(waiting, 1.0)
    assert lane.settle(1.0) == [reserving]


def test_a_gang_that_lost_a_member_takes_no_calls(lane: Lane) -> None:
    first, second = join_all(lane, "a")
    lane.remove(second)
    assert call(lane).replica is None
    assert not first.gone


def test_members_of_two_epochs_are_no_whole_gang(lane: Lane) -> None:
    first = join(lane, "a", 0)
    join(lane, "a", 1, epoch=2)
    assert call(lane).replica is None
    lane.regroup(first, place("a", 0, epoch=2))
    assert len(lane.settle(1.0)) == 1


def test_two_replicas_of_one_rank_are_no_whole_gang(lane: Lane) -> None:
    join(lane, "a", 0)
    lane.add(ReplicaId("other"), place("a", 0))
    assert [gang.whole for gang in lane.gangs] == [False]


def test_gangs_of_two_sizes_live_side_by_side(lane: Lane) -> None:
    join_all(lane, "new", size=3)
    join_all(lane, "old", size=1)
    assert sorted(len(reserve(lane).members) for _ in range(2)) == [1, 3]


def test_calls_go_to_every_member_or_to_the_leader_alone(lane: Lane) -> None:
    join_all(lane, "a", size=3)
    lane.route_to(GangRoute.LEADER)
    leading, waiting = call(lane), call(lane)
    assert leading.replica is not None
    assert (leading.replica.replica_id, waiting.replica) == ("a-0", None)
    lane.route_to(GangRoute.ALL)
    assert lane.settle(1.0) == [waiting]
    assert waiting.replica is not None
    assert waiting.replica.replica_id != "a-0"


def test_a_reservation_takes_a_slot_on_every_member_by_rank(lane: Lane) -> None:
    second, first = join(lane, "a", 1, capacity=2), join(lane, "a", 0, capacity=2)
    waiter = reserve(lane)
    assert waiter.members == (first, second)
    assert waiter.replica is first
    assert (first.own, second.own) == (1, 1)
    lane.finish(waiter, 2.0)
    assert (first.own, second.own) == (0, 0)
    assert not waiter.members


def test_the_fullest_member_counts(lane: Lane) -> None:
    loaded = join_all(lane, "a", capacity=10)
    even = join_all(lane, "b", capacity=10)
    lane.told(loaded[1], Load(8, 0, 10))
    for member in even:
        lane.told(member, Load(5, 0, 10))
    assert reserve(lane).members == tuple(even)


def test_equal_gangs_take_turns(lane: Lane) -> None:
    for gang in ("a", "b", "c"):
        join_all(lane, gang, capacity=100)
    leaders = []
    for _ in range(6):
        waiter = reserve(lane)
        leaders.append(waiter.members[0].replica_id)
        lane.finish(waiter, 1.0)
    assert leaders == ["a-0", "b-0", "c-0"] * 2


def test_one_full_member_keeps_a_gang_closed_and_nobody_overtakes(lane: Lane) -> None:
    first, second = join_all(lane, "a")
    running = call(lane)
    reserving, later = reserve(lane), call(lane)
    assert lane.settle(1.0) == []
    lane.finish(running, 1.0)
    assert lane.settle(1.0) == [reserving]
    lane.finish(reserving, 1.0)
    assert lane.settle(1.0) == [later]
    assert first.own + second.own == 1


def test_a_member_that_refused_closes_its_gang_and_another_is_tried(lane: Lane) -> None:
    a = join_all(lane, "a")
    b = join_all(lane, "b")
    waiter = reserve(lane)
    assert waiter.members == tuple(a)
    lane.refuse_gang(waiter, {a[1]: Outcome.FULL})
    lane.put_back(waiter)
    assert lane.settle(1.0) == [waiter]
    assert waiter.members == tuple(b)
    assert (a[0].own, a[0].fit(), a[1].fit()) == (0, Fit.OPEN, Fit.CLOSED)


@pytest.mark.parametrize("refusal", [Outcome.DRAINING, Outcome.UNREACHABLE])
def test_a_gang_with_a_member_out_of_reach_is_out_of_rotation(lane: Lane, refusal: Outcome) -> None:
    a = join_all(lane, "a")
    waiter = reserve(lane)
    lane.refuse_gang(waiter, {a[1]: refusal})
    lane.put_back(waiter)
    assert lane.settle(1.0) == []
    lane.pushed(a[1], Load(0, 0, 1), draining=False)
    assert lane.settle(1.0) == [waiter]


def test_where_no_gang_has_room_for_sure_a_doubtful_one_is_tried(lane: Lane) -> None:
    a = join_all(lane, "a")
    lane.told(a[0], Load(1, 0, 1))
    waiter = reserve(lane)
    assert waiter.members == tuple(a)
    assert lane.probe_ends_at() is None
    second = reserve(lane)
    assert second.replica is None
    assert lane.probe_ends_at() is not None


def test_what_weighs_more_finds_the_gang_where_it_fits(lane: Lane) -> None:
    join_all(lane, "a", capacity=2)
    b = join_all(lane, "b", capacity=3)
    assert reserve(lane, slots=3).members == tuple(b)
    with pytest.raises(ConfigInvalidError, match="4 is more than 3"):
        reserve(lane, slots=4)


def test_who_waits_too_long_learns_that_no_gang_was_free(lane: Lane) -> None:
    join(lane, "a", 0)
    waiter = reserve(lane, deadline=2.0)
    assert lane.expire(waiter, 2.0)
    assert isinstance(waiter.error, NoSlotInTimeError)
    assert "no whole gang of app.Model had a free slot on every member" in waiter.error.message


def test_a_replica_may_move_to_another_gang() -> None:
    gangs, member = Gangs(), ReplicaLoad(ReplicaId("r"))
    (before,) = gangs.put(place("a", 0, size=1), member)
    left, joined = gangs.put(place("b", 0, size=1), member)
    assert left is before
    assert (before.whole, joined.whole, [gang.gang_id for gang in gangs]) == (False, True, ["b"])
    assert gangs.drop(member) is joined
    assert gangs.drop(member) is None
    assert list(gangs) == []


def test_a_gang_that_left_is_forgotten() -> None:
    gangs, member = Gangs(), ReplicaLoad(ReplicaId("r"))
    member.pushed(Load(0, 0, 1), draining=False)
    (gang,) = gangs.put(place("a", 0, size=1), member)
    assert gangs.choose(1) is gang
    gangs.changed(member)
    gangs.drop(member)
    assert gangs.choose(1) is None


def test_an_empty_gang_fits_nothing() -> None:
    assert GangLoad(GangId("a")).fit(1) is Fit.CLOSED
    gangs = Gangs()
    gangs.changed(ReplicaLoad(ReplicaId("stranger")))
    assert gangs.choose(1) is None
    assert gangs.choose(2) is None
