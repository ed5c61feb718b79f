"""The log of events: numbered without gaps, bounded, and the same after a restart."""

from __future__ import annotations

import pytest

from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey
from serve_core.plan.eventlog import EVENTS_MAX, EventLog

KEY = DeploymentKey("app", "main")


def happened(*reasons: str) -> list[Event]:
    return [Event(key=KEY, time=float(index), reason=reason, message=reason) for index, reason in enumerate(reasons)]


def numbers(log: EventLog) -> list[tuple[int, str]]:
    return [(event.sequence, event.reason) for event in log.events]


def test_events_are_numbered_from_one_in_their_order() -> None:
    log = EventLog().appended(happened("a", "b")).appended(happened("c"))
    assert numbers(log) == [(1, "a"), (2, "b"), (3, "c")]
    assert log.last_sequence == 3


def test_nothing_new_is_the_same_log() -> None:
    log = EventLog().appended(happened("a"))
    assert log.appended(()) is log
    assert EventLog().last_sequence == 0


def test_the_oldest_make_room_and_numbers_go_on() -> None:
    log = EventLog().appended(happened("a", "b", "c"), at_most=2)
    assert numbers(log) == [(2, "b"), (3, "c")]
    assert numbers(log.appended(happened("d", "e", "f"), at_most=2)) == [(5, "e"), (6, "f")]
    assert len(EventLog().appended(happened(*"x" * (EVENTS_MAX + 5))).events) == EVENTS_MAX


@pytest.mark.parametrize(
    ("sequence", "expected"), [(0, [2, 3, 4]), (1, [2, 3, 4]), (2, [3, 4]), (3, [4]), (4, []), (9, [])]
)
def test_only_what_came_after_a_sequence(sequence: int, expected: list[int]) -> None:
    log = EventLog().appended(happened("a", "b", "c", "d"), at_most=3)
    assert [event.sequence for event in log.after(sequence)] == expected


def test_what_makes_room_is_told_for_the_store() -> None:
    before = EventLog().appended(happened("a", "b", "c"), at_most=3)
    after = before.appended(happened("d", "e"), at_most=3)
    assert [event.sequence for event in before.older_than(after)] == [1, 2]
    assert before.older_than(before) == ()
    assert before.older_than(EventLog()) == ()
    assert EventLog().older_than(after) == ()


def test_more_than_fits_at_once_drops_the_whole_log_before() -> None:
    before = EventLog().appended(happened("a", "b"), at_most=2)
    after = before.appended(happened(*"xyz"), at_most=2)
    assert [event.sequence for event in before.older_than(after)] == [1, 2]
    assert numbers(after) == [(4, "y"), (5, "z")]


def test_a_log_is_put_together_in_order() -> None:
    log = EventLog().appended(happened("a", "b", "c"))
    assert EventLog.of(reversed(log.events)) == log
