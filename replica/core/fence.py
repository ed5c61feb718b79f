"""Whether a replica that stood still may take new requests again.

A process that was stopped for so long that its controller gave it up may have been replaced meanwhile. When it goes on
it cannot know: it takes nothing new until the controller has acknowledged a heartbeat that it sent since. Times are
seconds by one monotonic clock.
"""

from __future__ import annotations


class Fence:
    """Goes up when the process stood still for too long, and down with an acknowledgement that is newer than that.

    Args:
        limit_s: How long the process may stand still.
    """

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._alive_at: float | None = None
        self._sent = 0
        self._awaited: int | None = None

    @property
    def up(self) -> bool:
        """Whether nothing new may be taken."""
        return self._awaited is not None

    def limit(self, limit_s: float) -> None:
        """Changes the limit, live."""
        self._limit_s = limit_s

    def arm(self, now: float) -> None:
        """From now on standing still matters: the replica takes requests."""
        self._alive_at = now

    def alive(self, now: float) -> bool:
        """The process runs. True if it had stood still for too long: the fence is up then.

        Call it before each decision that a process which was replaced must not take, and now and then besides.
        """
        alive_at = self._alive_at
        if alive_at is None:
            return False
        if now > alive_at:
            self._alive_at = now
        if now - alive_at <= self._limit_s:
            return False
        # An acknowledgement that waited in a buffer meanwhile is of an earlier heartbeat, and proves nothing.
        self._awaited = self._sent + 1
        return True

    def beat(self, sequence: int) -> None:
        """The heartbeat of this number is sent; numbers rise."""
        self._sent = sequence

    def acknowledged(self, sequence: int) -> bool:
        """The controller has heard that heartbeat. True if that brought the fence down."""
        if self._awaited is None or sequence < self._awaited:
            return False
        self._awaited = None
        return True
