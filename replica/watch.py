"""Who watches this replica's load: routers, whose promises end with their stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from replica.desk import SlotDesk
from replica.state import ReplicaState
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.model.ids import OwnerId
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.runtime import log

_log = log.get_logger(__name__)


class _Watcher:
    """One stream. It is told that there is news, never what: it then reads what is so now, so nothing queues up."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.news.set()
        self.over = False

    def end(self) -> None:
        self.over = True
        self.news.set()


class Watchers:
    """All streams of WatchLoad.

    Args:
        desk: Whose load they watch.
        state: Whose phase they watch.
    """

    def __init__(self, desk: SlotDesk, state: ReplicaState) -> None:
        self._desk = desk
        self._state = state
        self._watchers: dict[OwnerId, _Watcher] = {}
        self._closing = False
        self._none = asyncio.Event()
        self._none.set()
        desk.on_freed(self._tell)
        desk.on_drained(self.tell_all)
        state.on_change(self.tell_all)
        desk.on_fence(self.tell_all)

    @property
    def count(self) -> int:
        """How many streams are open."""
        return len(self._watchers)

    def tell_all(self) -> None:
        """Tells everyone what is so now."""
        for watcher in self._watchers.values():
            watcher.news.set()

    def close(self) -> None:
        """Ends every stream, after what is so now was told on it."""
        self._closing = True
        for watcher in self._watchers.values():
            watcher.end()

    async def left(self, timeout_s: float) -> bool:
        """Waits until every router has left, at most ``timeout_s`` seconds; says whether that came about.

        A router that has withdrawn a draining replica leaves it once it has no call there, nor one on its way to it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._none.wait()
        except TimeoutError:
            return False
        return True

    async def watch(self, owner: OwnerId) -> AsyncIterator[tuple[Load, ReplicaPhase]]:
        """The load and phase at once, and then at each push. A second stream of an owner takes the place of the first.

        Raises:
            ConfigInvalidError: The owner has no name.
        """
        if not owner:
            raise ConfigInvalidError((FieldViolation("owner_id", "is empty"),), what="the watch")
        watcher = _Watcher()
        earlier = self._watchers.get(owner)
        self._watchers[owner] = watcher
        self._none.clear()
        if earlier is not None:
            earlier.end()
        self._desk.owner_came(owner)
        try:
            over = False
            while not over:
                await watcher.news.wait()
                watcher.news.clear()
                # Not after the answer has left: what became so meanwhile is told before the end, too.
                over = watcher.over or self._closing
                # A replica that takes nothing for now is as good as one that drains, until the next push.
                phase = ReplicaPhase.DRAINING if self._desk.suspended else self._state.phase
                yield self._desk.load, phase
        finally:
            if self._watchers.get(owner) is watcher:
                del self._watchers[owner]
                if not self._watchers:
                    self._none.set()
                ended = self._desk.owner_gone(owner)
                _log.debug("watch ended", owner=owner, promises_ended=ended)

    def _tell(self, owner: OwnerId) -> None:
        watcher = self._watchers.get(owner)
        if watcher is not None:
            watcher.news.set()
