"""The barriers that this replica keeps for its gang, as its leader."""

from __future__ import annotations

import asyncio
import contextlib

from replica.core.barrier import Barriers, Visit
from serve_core.errors import GangChangedError
from serve_core.model.ids import GangId
from serve_core.model.replica import Gang


class BarrierDesk:
    """Where the members of one gang wait for each other. Nobody is let through before the gang is known."""

    def __init__(self) -> None:
        self._gang_id = GangId("")
        self._barriers = Barriers()
        self._news = asyncio.Event()

    def serve(self, gang: Gang) -> None:
        """Serves this gang from now on; a gang that is served already keeps its barriers."""
        if gang.gang_id != self._gang_id:
            self._gang_id = gang.gang_id
            self._barriers = Barriers(size=gang.size)
            self._tell()

    def begin(self, epoch: int) -> None:
        """A roster of this epoch holds: ends the waits of those who came by an earlier one."""
        self._barriers.begin(epoch=epoch)
        self._tell()

    async def meet(self, gang_id: str, visit: Visit, *, timeout_s: float | None) -> tuple[int, ...]:
        """Waits for all the others, at most ``timeout_s`` seconds. Returns the ranks that did not come.

        Raises:
            GangChangedError: This is no member of that gang, or the visitor knows an earlier roster.
            ConfigInvalidError: There can be no such visit.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._gang_id:  # A member may have been told of the gang before its leader was.
                    await self._news.wait()
        if gang_id != self._gang_id:
            raise GangChangedError(
                f"the leader of gang {gang_id!r} is not here any more: this is gang {self._gang_id!r}",
                details={"gangId": gang_id},
            )
        barriers = self._barriers
        barriers.come(visit)
        self._tell()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while barriers.missing(visit):
                        await self._news.wait()
            return barriers.missing(visit)
        finally:
            barriers.go(visit)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
