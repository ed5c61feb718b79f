"""What happened, in order: a log of bounded length, numbered without gaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from serve_core.model.event import Event

EVENTS_MAX = 1000
"""Events that are kept; the oldest make room."""


@dataclass(frozen=True, slots=True)
class EventLog:
    """The newest events, oldest first. Each has the sequence after the one before it, also across restarts."""

    events: tuple[Event, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event]) -> EventLog:
        """The log of events that have their sequences, in any order."""
        return cls(tuple(sorted(events, key=lambda event: event.sequence)))

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest event; 0 before the first."""
        return self.events[-1].sequence if self.events else 0

    def appended(self, events: Iterable[Event], *, at_most: int = EVENTS_MAX) -> EventLog:
        """The log with these events behind it, in this order, and no more than ``at_most`` in all."""
        first = self.last_sequence + 1
        numbered = tuple(replace(event, sequence=first + index) for index, event in enumerate(events))
        return EventLog((self.events + numbered)[-at_most:]) if numbered else self

    def after(self, sequence: int) -> tuple[Event, ...]:
        """What is kept of the events with a higher sequence, oldest first."""
        newer = self.last_sequence - sequence
        return self.events[-newer:] if newer > 0 else ()

    def older_than(self, newer: EventLog) -> tuple[Event, ...]:
        """What ``newer``, which this log became, has no room for any more. An empty log drops nothing."""
        if not newer.events:
            return ()
        oldest = newer.events[0].sequence
        first = self.events[0].sequence if self.events else oldest
        return self.events[: max(oldest - first, 0)]
