"""Answers that are ready at about the same time leave together: those to one connection in one write to its socket.

The core writes each answer by itself, and a write to a socket is the dearest part of a short one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Protocol

from serve_core.runtime.clock import monotonic

ANSWERS_MAX = 32
"""As many leave without waiting for more."""

SLOW_S = 0.001
"""An event loop that has let answers wait for so long is slow: then the next ``AT_ONCE`` leave at once."""

AT_ONCE = 8
"""Few: it may only have been another process's turn on the core."""


class Answer(Protocol):
    """The end of a call."""

    def peer(self) -> str:
        """Who gets it, as gRPC names them."""

    def leave(self) -> None:
        """Gives it to the core. Does not raise."""


class Holding(Protocol):
    """Can hold back what is written to a connection."""

    def hold(self, peer: str) -> int | None:
        """Holds it back from now on. Returns what ``let_go`` has to be called with; None if it cannot."""

    def let_go(self, descriptor: int) -> None:
        """Has it leave."""


class Outbox:
    """Where answers wait for the end of a turn.

    Args:
        loop: The event loop.
        connections: Those that the answers go to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Holding) -> None:
        self.in_turn = False
        """Whether whoever has set this calls ``send`` once the turn is over."""
        self._loop = loop
        self._connections = connections
        self._waiting: deque[Answer] = deque()
        self._since = 0.0
        self._at_once = 0

    def add(self, answer: Answer) -> None:
        """Has an answer leave: within this turn of the event loop, or with the beginning of the next."""
        if self._at_once:
            self._at_once -= 1
            answer.leave()
            return
        waiting = self._waiting
        waiting.append(answer)
        count = len(waiting)
        if count == 1:
            self._since = monotonic()
            if not self.in_turn:
                self._loop.call_soon(self.send)
        elif count >= ANSWERS_MAX or monotonic() - self._since > SLOW_S:
            self.send()

    def send(self) -> None:
        """Has all leave that wait. Also for another thread, while something blocks the event loop: no answer leaves twice."""
        waiting = self._waiting
        if not waiting:
            return
        if monotonic() - self._since > SLOW_S:
            self._at_once = AT_ONCE
        answers = _taken(waiting)
        if len(answers) == 1:
            answers[0].leave()
            return
        together: dict[str, list[Answer]] = {}
        for answer in answers:
            together.setdefault(answer.peer(), []).append(answer)
        for peer, those in together.items():
            held = self._connections.hold(peer) if len(those) > 1 else None
            try:
                for answer in those:
                    answer.leave()
            finally:
                if held is not None:
                    self._connections.let_go(held)


def _taken(waiting: deque[Answer]) -> list[Answer]:
    """All that there are, each of which nobody else has taken."""
    answers: list[Answer] = []
    with contextlib.suppress(IndexError):
        while True:
            answers.append(waiting.popleft())
    return answers
