"""How a replica ends: it finishes what it has, lets user code clean up, and is done, all within one budget.

The members of a gang finish together: each that holds nothing any more waits, because the requests of another one may
still need it, until it is told to go on.
"""

from __future__ import annotations

from enum import Enum


class DrainPhase(Enum):
    """Where a drain is."""

    SERVING = "serving"
    FINISHING = "finishing"
    HELD = "held"
    CLEANING = "cleaning"
    DONE = "done"


class Drain:
    """One drain, which cannot be taken back. Times are seconds by one monotonic clock.

    Args:
        cleans_up: Whether user code has a hook for its end: a tenth of the budget, at most 5 s, is kept for it.
    """

    def __init__(self, *, cleans_up: bool = False) -> None:
        self._cleans_up = cleans_up
        self._ends_at: float | None = None
        self._finishes_by = 0.0
        self._hold = False
        self._phase = DrainPhase.SERVING

    @property
    def phase(self) -> DrainPhase:
        """Where it is."""
        return self._phase

    @property
    def ends_at(self) -> float | None:
        """When the budget is over; None before the drain has begun."""
        return self._ends_at

    def begin(self, *, budget_s: float, now: float, hold: bool = False) -> bool:
        """Starts the drain. Once begun, another call can only bring its end nearer. False if nothing changed.

        Args:
            budget_s: Seconds for all of it.
            now: The time.
            hold: Whether to wait, once nothing is held, for a call without this, or for the end of the budget.
        """
        released = self._hold and not hold
        self._hold = hold if self._ends_at is None else self._hold and hold
        budget_s = max(0.0, budget_s)
        ends_at = now + budget_s
        if self._ends_at is not None and ends_at >= self._ends_at:
            return released
        self._ends_at = ends_at
        self._finishes_by = ends_at - (min(5.0, budget_s / 10) if self._cleans_up else 0.0)
        if self._phase is DrainPhase.SERVING:
            self._phase = DrainPhase.FINISHING
        return True

    def stop(self) -> None:
        """Ends it at once, whatever is held."""
        self._phase = DrainPhase.DONE

    def advance(self, *, idle: bool, now: float) -> DrainPhase:
        """Goes on as far as time and load allow; ``idle`` says that no slot is held."""
        if self._phase is DrainPhase.FINISHING and idle:
            self._phase = DrainPhase.HELD
        if (self._phase is DrainPhase.HELD and not self._hold) or (self._waits and now >= self._finishes_by):
            self._phase = DrainPhase.CLEANING if self._cleans_up else DrainPhase.DONE
        if self._phase is DrainPhase.CLEANING and self.remaining_s(now) <= 0:
            self._phase = DrainPhase.DONE
        return self._phase

    def cleaned_up(self) -> None:
        """The hook of user code has ended, well or not."""
        if self._phase is DrainPhase.CLEANING:
            self._phase = DrainPhase.DONE

    def deadline(self) -> float | None:
        """When to call ``advance`` even if nothing happens; None when there is nothing to wait for."""
        if self._waits:
            return self._finishes_by
        return self._ends_at if self._phase is DrainPhase.CLEANING else None

    def remaining_s(self, now: float) -> float:
        """Seconds of the budget that are left; 0 before the drain has begun."""
        return 0.0 if self._ends_at is None else max(0.0, self._ends_at - now)

    @property
    def _waits(self) -> bool:
        return self._phase in (DrainPhase.FINISHING, DrainPhase.HELD)
