"""Closed and open loops over a few connections, in one thread that sleeps in ``select`` until it has something to do."""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from bench.load.wire import Connection

GRACE_S = 20.0
"""How long what is under way may last after the end of the load."""

now = time.perf_counter


class Load(Protocol):
    """What is to be sent."""

    def begin(self, start: float, until: float) -> None:
        """It is time to send what is due first, at ``start``; nothing is to be sent after ``until``."""

    def send_due(self) -> float | None:
        """Sends what is due by now. Returns when something will be due next; None if nothing will be by itself."""


def drive(connections: Sequence[Connection], load: Load, seconds: float) -> float:
    """Runs a load for a time, and waits until all that was sent has ended. Returns when it began.

    Raises:
        TimeoutError: Calls were still under way long after the end.
    """
    start = now()
    load.begin(start, start + seconds)
    due = load.send_due()
    while (at := now()) < start + seconds or due is not None or any(one.under_way for one in connections):
        if at > start + seconds + GRACE_S:
            raise TimeoutError(f"{sum(one.under_way for one in connections)} calls did not end within {GRACE_S:g} s")
        for one in connections:
            one.flush()
        writers = [one for one in connections if one.wants_to_write]
        left = _wait(start + seconds - at) if due is None else max(0.0, due - at)
        readable, _, _ = select.select(connections, writers, (), left)
        for one in readable:
            one.receive()
        due = load.send_due()
    return start


def _wait(left: float) -> float:
    # After the end there is nothing to send: what wakes us is an answer, or the time to give up.
    return left if left > 0 else 1.0


class Unary:
    """One call: says at its end whether the whole answer came.

    Args:
        size: The framed answer's length.
        done: Called at the end.
    """

    __slots__ = ("_done", "_left")

    def __init__(self, size: int, done: Callable[[bool], None]) -> None:
        self._left = size
        self._done = done

    def data(self, chunk: bytes) -> None:
        self._left -= len(chunk)

    def ended(self) -> None:
        self._done(self._left == 0)


class Tally:
    """What became of calls: when each was due and when it ended, and how many failed."""

    def __init__(self) -> None:
        self.due: list[float] = []
        self.ended: list[float] = []
        self.failed = 0

    def note(self, due: float, *, answered: bool) -> None:
        """A call that was due then has ended now."""
        if answered:
            self.due.append(due)
            self.ended.append(now())
        else:
            self.failed += 1


class ClosedLoop(ABC):
    """So many callers at once: each calls again when its answer has come.

    Args:
        connections: Over which; callers are spread over them.
        concurrency: Callers.
    """

    def __init__(self, connections: Sequence[Connection], concurrency: int) -> None:
        self._connections = connections
        self._concurrency = concurrency
        self._until = 0.0
        self.tally = Tally()

    def begin(self, start: float, until: float) -> None:
        self._until = until
        for caller in range(self._concurrency):
            self.call(self._connections[caller % len(self._connections)])

    def send_due(self) -> float | None:
        return None

    @abstractmethod
    def call(self, connection: Connection) -> None:
        """Begins one call. At its end ``done`` is called."""

    def done(self, connection: Connection, begun_at: float, *, answered: bool) -> None:
        """Notes how it ended; its caller calls again if there is time."""
        self.tally.note(begun_at, answered=answered)
        if now() < self._until:
            self.call(connection)


class ClosedUnary(ClosedLoop):
    """The same call by every caller.

    Args:
        connections: Over which; callers are spread over them.
        concurrency: Callers.
        block: The headers of a call.
        body: Its message, framed.
        answer_size: The framed answer's length.
    """

    def __init__(
        self, connections: Sequence[Connection], concurrency: int, block: bytes, body: bytes, answer_size: int
    ) -> None:
        super().__init__(connections, concurrency)
        self._block, self._body, self._answer_size = block, body, answer_size

    def call(self, connection: Connection) -> None:
        begun_at = now()
        reply = Unary(self._answer_size, lambda answered: self.done(connection, begun_at, answered=answered))
        connection.call(self._block, self._body, reply)


class OpenUnary:
    """Calls by a schedule, whatever becomes of those before.

    Args:
        connections: Over which, in turn.
        block: The headers of a call.
        body: Its message, framed.
        answer_size: The framed answer's length.
        rate_s: Calls a second.
        count: How many in all.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        block: bytes,
        body: bytes,
        answer_size: int,
        *,
        rate_s: float,
        count: int,
    ) -> None:
        self._connections = connections
        self._block, self._body, self._answer_size = block, body, answer_size
        self._rate_s, self._count = rate_s, count
        self._start = 0.0
        self._sent = 0
        self.tally = Tally()

    def begin(self, start: float, until: float) -> None:
        self._start = start

    def send_due(self) -> float | None:
        at = now()
        while self._sent < self._count and (due := self._due(self._sent)) <= at:
            self._call(self._connections[self._sent % len(self._connections)], due)
            self._sent += 1
        return self._due(self._sent) if self._sent < self._count else None

    def _call(self, connection: Connection, due: float) -> None:
        reply = Unary(self._answer_size, lambda answered: self.tally.note(due, answered=answered))
        connection.call(self._block, self._body, reply)

    def _due(self, number: int) -> float:
        return self._start + number / self._rate_s
