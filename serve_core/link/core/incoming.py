"""What arrives at one end of a link: pieces become messages, and room is granted as they are taken."""

from __future__ import annotations

from collections import deque

from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES

_GRANT_BYTES = WINDOW_BYTES // 2


class OversizeError(Exception):
    """A message is larger than the limit."""


class OverrunError(Exception):
    """The other end sent more than there was room for."""


class Incoming:
    """One call's way in.

    What was taken is granted anew; so is what arrives of a message while nobody has an earlier one to take: a message may
    be larger than the window. Beside the window, one message is held at most.

    Args:
        limit_bytes: The largest message.
    """

    __slots__ = ("_held", "_limit", "_messages", "_owed", "_part_held", "_pieces", "_size")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._messages: deque[tuple[bytes, int]] = deque()
        self._pieces: list[bytes] = []
        self._size = 0  # of those pieces
        self._part_held = 0  # of them, what was not granted yet
        self._held = 0  # of all, the same
        self._owed = 0

    @property
    def ready(self) -> bool:
        """Whether there is a message to take."""
        return bool(self._messages)

    def feed(self, data: bytes, *, more: bool) -> None:
        """Takes what arrived.

        Raises:
            OversizeError: The message is larger than the limit.
            OverrunError: There was no room for this.
        """
        size = len(data)
        self._size += size
        if self._size > self._limit:
            raise OversizeError
        if size > CHUNK_BYTES or self._held > WINDOW_BYTES + MESSAGE_COST_BYTES:
            raise OverrunError
        if more:
            self._pieces.append(data)
            if self._messages:
                self._part_held += size
                self._held += size
            else:
                self._owed += size
            return
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces = []
        held = self._part_held + size + MESSAGE_COST_BYTES
        self._held += size + MESSAGE_COST_BYTES
        self._part_held = self._size = 0
        self._messages.append((data, held))

    def take(self) -> bytes:
        """The next message. Only while ``ready``."""
        message, held = self._messages.popleft()
        if not self._messages:
            held += self._part_held
            self._part_held = 0
        self._held -= held
        self._owed += held
        return message

    def grant(self) -> int:
        """How much to grant the other end now; 0 while that is not worth a word."""
        if self._owed < _GRANT_BYTES:
            return 0
        owed, self._owed = self._owed, 0
        return owed
