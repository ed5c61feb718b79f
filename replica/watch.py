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
        desk.on_freed(self._tell)
        state.on_change(self.tell_all)

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
        if earlier is not None:
            earlier.end()
        self._desk.owner_came(owner)
        try:
            while not self._closing:
                await watcher.news.wait()
                watcher.news.clear()
                yield self._desk.load, self._state.phase
                if watcher.over:
                    break
        finally:
            if self._watchers.get(owner) is watcher:
                del self._watchers[owner]
                ended = self._desk.owner_gone(owner)
                _log.debug("watch ended", owner=owner, promises_ended=ended)

    def _tell(self, owner: OwnerId) -> None:
        watcher = self._watchers.get(owner)
        if watcher is not None:
            watcher.news.set()
