"""Streams of small items, as a language model's tokens: how many a second, and how long from one to the next."""

from __future__ import annotations

from collections.abc import Sequence

from bench.load.loops import now
from bench.load.wire import Connection


class Items:
    """One stream: notes when each of its items came.

    Args:
        item_size: The framed length of one.
        count: How many are to come.
    """

    __slots__ = ("_count", "_item_size", "_pending", "came_at", "over")

    def __init__(self, item_size: int, count: int) -> None:
        self._item_size = item_size
        self._count = count
        self._pending = 0
        self.came_at: list[float] = []
        self.over = False

    @property
    def whole(self) -> bool:
        """Whether all of it came."""
        return len(self.came_at) == self._count and not self._pending

    def data(self, chunk: bytes) -> None:
        self._pending += len(chunk)
        if self._pending >= self._item_size:
            came, self._pending = divmod(self._pending, self._item_size)
            self.came_at.extend((now(),) * came)

    def ended(self) -> None:
        self.over = True


class Streams:
    """So many streams at once, each of so many items.

    Args:
        connections: Over which; streams are spread over them.
        block: The headers of a call.
        body: Its message, framed.
        item_size: The framed length of one item.
        items: Items of each stream.
        streams: Streams.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        block: bytes,
        body: bytes,
        *,
        item_size: int,
        items: int,
        streams: int,
    ) -> None:
        self._connections = connections
        self._block, self._body = block, body
        self.streams = [Items(item_size, items) for _ in range(streams)]

    def begin(self, start: float, until: float) -> None:
        for number, stream in enumerate(self.streams):
            self._connections[number % len(self._connections)].call(self._block, self._body, stream)

    def send_due(self) -> float | None:
        return None

    def gaps_s(self) -> list[float]:
        """From one item to the next of its stream, over all streams; ascending."""
        return sorted(
            later - earlier
            for stream in self.streams
            for earlier, later in zip(stream.came_at, stream.came_at[1:], strict=False)
        )
