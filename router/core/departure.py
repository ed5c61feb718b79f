"""How a router leaves: it serves on until its callers have gone elsewhere, then refuses, finishes, and ends.

What the world sees of it, in this order. A router goes on to the next as soon as it may, and never back:

1. *leaving*: it says that it is not ready, and serves as before, so that whoever balances load has time to notice. It
   listens until another router does on the same port; then only the connections that it has are served.
2. *refusing*: new calls are told to go elsewhere; what runs goes on.
3. *gone*: nothing runs, or the time is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LOOK_S = 0.05
"""How long to wait before the next look, in seconds: connections leave without a word."""


class Phase(Enum):
    """How far a router is on its way out."""

    LEAVING = "leaving"
    REFUSING = "refusing"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DepartureLimits:
    """How long a router may take to leave. All are seconds.

    Attributes:
        drain_timeout_s: For all of it.
        linger_timeout_s: How much of that it may serve on at most.
        quiet_s: While nobody has taken its place, it serves until this long after the last call.
    """

    drain_timeout_s: float
    linger_timeout_s: float
    quiet_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is inside a router, at one moment.

    Attributes:
        running: Calls that run or wait.
        connections: Open connections of callers.
        last_call_at: When the last call arrived, in monotonic seconds.
        leased_until: Until when a token that was reserved through this router may live, in monotonic seconds.
        replaced: Whether another router listens on the same port, and is not one that leaves together with this one.
    """

    running: int
    connections: int
    last_call_at: float = 0.0
    leased_until: float = 0.0
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What holds from now on, until the next look."""

    phase: Phase
    listening: bool


class Departure:
    """One router's way out.

    Args:
        limits: How long it may take.
        now: When it was told to leave, in monotonic seconds.
    """

    def __init__(self, limits: DepartureLimits, *, now: float) -> None:
        self._quiet_s = limits.quiet_s
        self._started_at = now
        self._ends_at = now + limits.drain_timeout_s
        self._lingers_until = now + min(limits.linger_timeout_s, limits.drain_timeout_s)
        self._phase = Phase.LEAVING
        self._listening = True

    def look(self, seen: Seen, *, now: float) -> Step:
        """What to do, given what is inside now."""
        if self._phase is Phase.LEAVING:
            self._listening = self._listening and not seen.replaced
            if now >= self._lingers_until or self._is_left(seen, now):
                self._phase, self._listening = Phase.REFUSING, False
        if self._phase is Phase.REFUSING and (seen.running == 0 or now >= self._ends_at):
            self._phase = Phase.GONE
        return Step(self._phase, self._listening)

    def _is_left(self, seen: Seen, now: float) -> bool:
        """Whether nobody is here and nobody is to be expected."""
        if seen.running or seen.connections or seen.leased_until > now:
            return False
        return not self._listening or now - max(seen.last_call_at, self._started_at) >= self._quiet_s
