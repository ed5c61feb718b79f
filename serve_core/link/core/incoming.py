"""What arrives at one end of a link: pieces become messages, and room is granted as they are taken."""

from __future__ import annotations

from collections import deque
from io import BytesIO

from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES

_GRANT_BYTES = WINDOW_BYTES // 2


class OversizeError(Exception):
    """A message is larger than the limit."""


class OverrunError(Exception):
    """The other end sent more than there was room for."""


class Incoming:
    """One call's way in. It copies what arrives once: that may lie in a buffer that is used again.

    What was taken is granted anew; so is what arrives of a message while nobody has an earlier one to take: a message may
    be larger than the window. Beside the window, one message is held at most.

    Args:
        limit_bytes: The largest message.
    """

    __slots__ = ("_held", "_limit", "_messages", "_owed", "_part", "_part_held", "_size")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._messages: deque[tuple[bytes, int]] = deque()
        self._part: BytesIO | None = None
        self._size = 0  # of that part
        self._part_held = 0  # of them, what was not granted yet
        self._held = 0  # of all, the same
        self._owed = 0

    @property
    def ready(self) -> bool:
        """Whether there is a message to take."""
        return bool(self._messages)

    def feed(self, data: bytes | memoryview, *, more: bool, message_bytes: int = 0) -> None:
        """Takes what arrived.

        Args:
            data: A message, or a piece of one.
            more: Whether the message goes on.
            message_bytes: What the whole of it will have, if that is said; only counts with the first piece.

        Raises:
            OversizeError: The message is larger than the limit.
            OverrunError: There was no room for this.
        """
        size = len(data)
        self._size += size
        if self._size > self._limit or message_bytes > self._limit:
            raise OversizeError
        if size > CHUNK_BYTES or self._held > WINDOW_BYTES + MESSAGE_COST_BYTES:
            raise OverrunError
        if more:
            if self._part is None:
                self._part = BytesIO(bytes(message_bytes))
            self._part.write(data)
            if self._messages:
                self._part_held += size
                self._held += size
            else:
                self._owed += size
            return
        if self._part is not None:
            self._part.write(data)
            self._part.truncate()  # if less has come than was said
            data = self._part.getvalue()  # which is no copy, as nothing more is written to it
            self._part = None
        held = self._part_held + size + MESSAGE_COST_BYTES
        self._held += size + MESSAGE_COST_BYTES
        self._part_held = self._size = 0
        self._messages.append((data if isinstance(data, bytes) else bytes(data), held))

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
