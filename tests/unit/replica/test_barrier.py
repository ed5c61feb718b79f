"""Who has come to which round of a gang's barriers."""

from __future__ import annotations

import pytest

from replica.core.barrier import NAME_CHARS_MAX, NAMES_MAX, PASSED_MAX, Barriers, Rounds, Visit
from serve_core.errors import ConfigInvalidError, GangChangedError


def visit(rank: int, *, epoch: int = 1, name: str = "", round: int = 0) -> Visit:
    return Visit(epoch=epoch, rank=rank, name=name, round=round)


@pytest.fixture
def barriers() -> Barriers:
    found = Barriers(size=3)
    found.begin(epoch=1)
    return found


def test_nobody_passes_before_all_have_come(barriers: Barriers) -> None:
    for rank in (2, 0):
        barriers.come(visit(rank))
    assert barriers.missing(visit(2)) == (1,)
    barriers.come(visit(1))
    assert [barriers.missing(visit(rank)) for rank in range(3)] == [(), (), ()]


def test_who_comes_again_counts_once(barriers: Barriers) -> None:
    for rank in (0, 0, 1, 0):
        barriers.come(visit(rank))
    assert barriers.missing(visit(0)) == (2,)
    barriers.go(visit(0))
    assert barriers.missing(visit(0)) == (2,)


def test_who_gave_up_is_not_there_any_more(barriers: Barriers) -> None:
    barriers.come(visit(0))
    barriers.come(visit(1))
    barriers.go(visit(0))
    barriers.come(visit(2))
    assert barriers.missing(visit(2)) == (0,)
    barriers.come(visit(0))
    assert barriers.missing(visit(2)) == ()


def test_a_round_that_was_passed_stays_so_for_those_whose_answer_was_lost(barriers: Barriers) -> None:
    for rank in range(3):
        barriers.come(visit(rank))
    for rank in range(3):
        barriers.go(visit(rank))
    barriers.come(visit(1))
    assert barriers.missing(visit(1)) == ()
    barriers.come(visit(1, round=1))
    assert barriers.missing(visit(1, round=1)) == (0, 2)


def test_barriers_of_other_names_and_rounds_are_others(barriers: Barriers) -> None:
    barriers.come(visit(0, name="load"))
    barriers.come(visit(1, name="load", round=1))
    barriers.come(visit(2, name="warm"))
    assert barriers.missing(visit(0, name="load")) == (1, 2)
    assert barriers.missing(visit(1, name="load", round=1)) == (0, 2)
    assert barriers.missing(visit(2, name="warm")) == (0, 1)


def test_a_new_epoch_ends_the_waits_of_the_earlier_one(barriers: Barriers) -> None:
    barriers.come(visit(0))
    barriers.begin(epoch=2)
    with pytest.raises(GangChangedError, match="the epoch is 2"):
        barriers.missing(visit(0))
    with pytest.raises(GangChangedError):
        barriers.come(visit(1))
    barriers.go(visit(0))
    for rank in range(3):
        barriers.come(visit(rank, epoch=2))
    assert barriers.missing(visit(0, epoch=2)) == ()
    barriers.begin(epoch=1)
    with pytest.raises(GangChangedError):
        barriers.come(visit(1))


def test_who_knows_a_later_roster_waits_for_it(barriers: Barriers) -> None:
    barriers.come(visit(1, epoch=2))
    assert barriers.missing(visit(1, epoch=2)) == (0, 2)
    barriers.begin(epoch=2)
    for rank in (0, 2):
        barriers.come(visit(rank, epoch=2))
    assert barriers.missing(visit(1, epoch=2)) == ()


def test_what_was_passed_before_a_new_epoch_is_passed(barriers: Barriers) -> None:
    for rank in range(3):
        barriers.come(visit(rank))
    barriers.begin(epoch=2)
    assert barriers.missing(visit(0)) == ()


def test_a_gang_of_one_never_waits() -> None:
    barriers = Barriers()
    barriers.come(visit(0))
    assert barriers.missing(visit(0)) == ()


def test_what_can_be_no_visit_is_refused_with_all_that_is_wrong(barriers: Barriers) -> None:
    with pytest.raises(ConfigInvalidError, match=r"rank: 3 is not below 3.*name: is longer"):
        barriers.come(visit(3, name="x" * (NAME_CHARS_MAX + 1)))


def test_not_everything_is_remembered_for_ever(barriers: Barriers) -> None:
    for number in range(PASSED_MAX + 1):
        for rank in range(3):
            barriers.come(visit(rank, round=number))
    assert barriers.missing(visit(0, round=PASSED_MAX)) == ()
    assert barriers.missing(visit(0, round=1)) == ()
    assert barriers.missing(visit(0, round=0)) == (0, 1, 2)


def test_a_member_counts_what_it_passed_and_begins_anew_with_each_epoch() -> None:
    rounds = Rounds()
    first = rounds.next(epoch=1, rank=2, name="a")
    assert first == visit(2, name="a")
    assert rounds.next(epoch=1, rank=2, name="a") == first
    rounds.passed(first)
    rounds.passed(first)
    assert rounds.next(epoch=1, rank=2, name="a").round == 1
    assert rounds.next(epoch=1, rank=2, name="b").round == 0
    assert rounds.next(epoch=2, rank=2, name="a").round == 0
    rounds.passed(first)
    assert rounds.next(epoch=2, rank=2, name="a").round == 0


def test_a_name_for_each_step_is_refused_before_it_costs_too_much() -> None:
    rounds = Rounds()
    for number in range(NAMES_MAX):
        rounds.passed(rounds.next(epoch=1, rank=0, name=str(number)))
    with pytest.raises(ConfigInvalidError, match="come to one barrier again and again"):
        rounds.next(epoch=1, rank=0, name="one more")
    assert rounds.next(epoch=1, rank=0, name="7").round == 1
