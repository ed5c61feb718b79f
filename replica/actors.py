"""Where the deployment's actors are, for the tasks of this process that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from replica.core.directory import ActorDirectory, Restart
from serve_core.errors import ActorUnknownError
from serve_core.model.actor import ActorEndpoint
from serve_core.runtime import log

_log = log.get_logger(__name__)


class Actors:
    """The directory, and its changes."""

    def __init__(self) -> None:
        self._directory = ActorDirectory()
        self._news = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def names(self) -> Sequence[str]:
        """The actors that the deployment has."""
        return self._directory.names

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each change."""
        self._listeners.append(listener)

    def describe(self, names: Iterable[str]) -> None:
        """The deployment has these actors."""
        self._directory.describe(names)

    def take(self, endpoints: Sequence[ActorEndpoint]) -> None:
        """The controller has said where they are. What is known already changes nothing."""
        if self._directory.take(endpoints):
            where = {one.name: f"{one.incarnation}@{one.address or 'nowhere'}" for one in endpoints}
            _log.info("actors", where=where)
            self._news.set()
            self._news = asyncio.Event()
            for listener in self._listeners:
                listener()

    def find(self, name: str) -> ActorEndpoint | None:
        """Where an actor is, if that is known."""
        return self._directory.find(name)

    def require(self, name: str) -> None:
        """Raises ActorUnknownError, which names those that there are, unless this is one."""
        if name not in self.names:
            known = ", ".join(self.names) or "none"
            raise ActorUnknownError(
                f"the deployment has no actor {name[:100]!r}; it has: {known}", details={"actor": name[:100]}
            )

    async def until_other(self, name: str, seen: ActorEndpoint | None, *, timeout_s: float) -> bool:
        """Waits until something else than ``seen`` is known of an actor. False if nothing is in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.find(name) == seen:
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def follow(self, act: Callable[[Restart], Awaitable[None]]) -> None:
        """Has ``act`` deal with each actor that serves in a new life, one after the other."""
        while True:
            news = self._news
            while (restart := self._directory.take_restart()) is not None:
                await act(restart)
            await news.wait()
