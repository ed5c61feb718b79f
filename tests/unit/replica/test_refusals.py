"""Who is told when slots free."""

from __future__ import annotations

from replica.core.refusals import Refusals
from serve_core.model.ids import OwnerId

A, B = OwnerId("a"), OwnerId("b")


def listening(*owners: OwnerId) -> Refusals:
    refusals = Refusals()
    for owner in owners:
        refusals.came(owner)
    return refusals


def test_the_fewest_slots_that_an_owner_was_refused_count() -> None:
    refusals = listening(A)
    for slots in (3, 1, 2):
        refusals.refuse(A, slots)
    assert refusals.to_tell(0) == ()
    assert refusals.to_tell(1) == (A,)
    assert refusals.to_tell(3) == ()


def test_the_place_in_line_is_that_of_the_first_refusal() -> None:
    refusals = listening(A, B)
    refusals.refuse(B, 2)
    refusals.refuse(A, 1)
    refusals.refuse(B, 1)
    assert refusals.to_tell(5) == (B, A)
    refusals.refuse(A, 1)
    refusals.refuse(B, 1)
    assert refusals.to_tell(5) == (A, B)


def test_coming_again_forgets_nothing_and_going_forgets_all() -> None:
    refusals = listening(A)
    refusals.refuse(A, 1)
    refusals.came(A)
    assert refusals.to_tell(1) == (A,)
    refusals.refuse(A, 1)
    refusals.gone(A)
    refusals.came(A)
    assert refusals.to_tell(1) == ()
