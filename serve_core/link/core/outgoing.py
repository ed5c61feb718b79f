"""What leaves one end of a link: each call's messages in order, cut into pieces, and the calls in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from serve_core.link.core.limits import CHUNK_BYTES, MESSAGE_COST_BYTES, WINDOW_BYTES

S = TypeVar("S")
K = TypeVar("K", bound=Hashable)


class Piece(NamedTuple):
    """A message or a part of it, which is not copied; ``more`` of it comes later. The first part of several tells the size."""

    data: bytes | memoryview
    more: bool
    message_bytes: int = 0


class _Last(NamedTuple, Generic[S]):
    step: S


class Outgoing(Generic[S]):
    """One call's way out. What is put in comes out in the same order, as far as the other end has room for it.

    A message may end below the room that there is, by what it counts beside its bytes, and never begins below it.
    """

    __slots__ = ("_offset", "_pulled", "_put", "_queue", "_room")

    def __init__(self) -> None:
        self._queue: deque[bytes | _Last[S]] = deque()
        self._offset = 0
        self._room = WINDOW_BYTES
        self._put = 0
        self._pulled = 0

    @property
    def sendable(self) -> bool:
        """Whether ``pull`` has something to give."""
        return bool(self._queue) and (self._room > 0 or isinstance(self._queue[0], _Last))

    @property
    def waiting(self) -> bool:
        """Whether something was put in that has not left."""
        return bool(self._queue)

    @property
    def sent(self) -> int:
        """How many messages have left whole."""
        return self._pulled

    def pass_by(self, size: int) -> bool:
        """Whether a message of this size may leave at once, whole and unqueued. It then counts as sent."""
        if self._queue or size > CHUNK_BYTES or size > self._room or self._room <= 0:
            return False
        self._room -= size + MESSAGE_COST_BYTES
        self._put += 1
        self._pulled += 1
        return True

    def put(self, message: bytes) -> int:
        """Queues a message. It has left once ``sent`` is what this returns."""
        self._queue.append(message)
        self._put += 1
        return self._put

    def put_last(self, step: S) -> bool:
        """Queues what must come after all messages. False if there are none, and it may leave at once."""
        if not self._queue:
            return False
        self._queue.append(_Last(step))
        return True

    def grant(self, size: int) -> None:
        """The other end has room for so much more."""
        self._room += size

    def pull(self) -> Piece | S:
        """The next piece, or what comes after all of them. Only while ``sendable``."""
        head = self._queue[0]
        if isinstance(head, _Last):
            self._queue.popleft()
            step: S = head.step
            return step
        end = self._offset + min(CHUNK_BYTES, self._room)
        if end < len(head):
            size = 0 if self._offset else len(head)
            piece = Piece(memoryview(head)[self._offset : end], more=True, message_bytes=size)
            self._room -= end - self._offset
            self._offset = end
            return piece
        piece = Piece(memoryview(head)[self._offset :] if self._offset else head, more=False)
        self._queue.popleft()
        self._room -= len(piece.data) + MESSAGE_COST_BYTES
        self._offset = 0
        self._pulled += 1
        return piece

    def clear(self) -> None:
        """Nothing more leaves."""
        self._queue.clear()


class Turns(Generic[K, S]):
    """The calls that have something to send, each of which gives one piece in its turn."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[K, Outgoing[S]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def ready(self, key: K, outgoing: Outgoing[S]) -> None:
        """``outgoing`` may have become sendable: it comes after those that wait."""
        if outgoing.sendable:
            self._calls.setdefault(key, outgoing)

    def forget(self, key: K) -> None:
        """A call is over."""
        self._calls.pop(key, None)

    def pull(self) -> tuple[K, Piece | S]:
        """What the next call in turn sends, and who it is. Only while there are some."""
        key = next(iter(self._calls))
        outgoing = self._calls.pop(key)
        pulled = outgoing.pull()
        self.ready(key, outgoing)
        return key, pulled
