"""What is to be planned, and when."""

from __future__ import annotations

from serve_core.controller.agenda import Agenda
from serve_core.model.ids import DeploymentKey

A, B, C = (DeploymentKey("app", name) for name in "abc")


def test_what_happened_is_due_once_and_in_order() -> None:
    agenda = Agenda()
    agenda.add([B, A])
    agenda.add([B])
    seen = [agenda.is_due]
    assert agenda.take(0.0) == [B, A]
    seen.append(agenda.is_due)
    assert seen == [True, False]
    assert agenda.take(0.0) == []


def test_what_has_a_time_is_due_then_and_the_newest_time_counts() -> None:
    agenda = Agenda()
    agenda.put(A, 5.0)
    agenda.put(B, 3.0)
    agenda.put(C, 1.0)
    agenda.put(C, None)
    agenda.put(A, 4.0)
    agenda.put(A, 4.0)
    assert agenda.next_time() == 3.0
    assert agenda.take(3.5) == [B]
    assert agenda.next_time() == 4.0
    assert agenda.take(9.0) == [A]
    assert agenda.next_time() is None
    assert agenda.take(99.0) == []


def test_what_is_planned_for_another_reason_has_no_time_any_more() -> None:
    agenda = Agenda()
    agenda.put(A, 5.0)
    agenda.add([A])
    assert agenda.take(1.0) == [A]
    assert agenda.next_time() is None
    agenda.put(A, 5.0)
    agenda.add([A])
    assert agenda.take(6.0) == [A]
