"""Virtual time: what happens next, one thing at a time, and an account of all that happened."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random
from typing import NoReturn

STORY_LENGTH = 150
"""Events that are kept for people."""

Action = Callable[[], None]


class Violation(AssertionError):  # noqa: N818 - it is what the checkers find, not an error of theirs
    """A promise of the design was broken."""


def broken(invariant: int, message: str) -> NoReturn:
    """Ends a world in which one of the numbered invariants of the design does not hold."""
    raise Violation(f"invariant {invariant}: {message}")


class Engine:
    """A heap of (time, sequence, action). ``trace`` sums up every noted event, in order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 1_000_000.0
        self.events = 0
        self.story: deque[str] = deque(maxlen=STORY_LENGTH)
        self._heap: list[tuple[float, int, Action]] = []
        self._sequence = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def randomness(self, purpose: str) -> Random:
        """A source of its own for each purpose, so that more draws for one do not change another."""
        return Random(f"{self.seed}/{purpose}")

    def at(self, time: float, action: Action) -> None:
        """Does something then, or now if that is over."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, action))

    def later(self, delay_s: float, action: Action) -> None:
        """Does something after a while."""
        self.at(self.now + delay_s, action)

    def run(self, until: float) -> None:
        """Lets everything happen that is due by then."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            self.events += 1
            action()
        self.now = until

    def note(self, text: str) -> None:
        """Something happened that tells one run from another."""
        line = f"{self.now:.6f} {text}"
        self.story.append(line)
        self._digest.update(line.encode())

    @property
    def trace(self) -> str:
        """The same for two runs only if all that was noted is."""
        return self._digest.hexdigest()
