"""What is chosen for a block of code, and kept while that lasts. Classes, because generators cost each block more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from router.forward import Router
from router.python_calls import deadline_of
from router.selection import ReplicaSelection, Selection
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.deadlines import Deadlines
from serve_core.runtime.supervisor import Supervisor


class Keeping:
    """Keeps a selection for a block. Most blocks end before there is anything to renew: only then is there a task."""

    __slots__ = ("_deadlines", "_keeper", "_kept", "_tasks", "_tick")

    def begin(self, selection: Selection, tasks: Supervisor, deadlines: Deadlines) -> None:
        """The block begins.

        Args:
            selection: What is kept.
            tasks: Owns the task.
            deadlines: Tells when to begin it.
        """
        self._kept = selection
        self._tasks = tasks
        self._deadlines = deadlines
        self._keeper: asyncio.Task[None] | None = None
        self._tick = deadlines.set(selection.granted_s / 2, self)

    def end(self) -> None:
        """The block is over."""
        self._kept.leave()
        self._deadlines.clear(self._tick, self)
        self._tick = 0
        if self._keeper is not None:
            self._keeper.cancel()

    def overdue(self) -> None:
        """Half of the lease is over."""
        if self._tick:
            with contextlib.suppress(RuntimeError):  # The router is closing.
                self._keeper = self._tasks.spawn(self._kept.keep(), name=f"renew {self._kept.replica_id}")


class Chooser(Protocol):
    """A router inside a caller, as far as choices need one."""

    @property
    def router(self) -> Router:
        """Reserves."""

    def key_of(self, application: str, deployment: str) -> DeploymentKey:
        """The deployment. Raises as ``Router.resolve``."""

    def keep(self, selection: Selection, keeping: Keeping) -> None:
        """Has a block that begins keep what was chosen for it."""


class Choice(Keeping, AbstractAsyncContextManager[ReplicaSelection]):
    """A replica for a block. See ``EmbeddedRouter.choose_replica``.

    Args:
        chooser: Chooses.
        application: The application.
        deployment: The deployment.
        timeout_s: Seconds until the dispatch has to be made, from when the block is entered.
        slots: Slots to promise.
        ttl_s: The lease's time to live.
        request_id: The same id again gets the same token while that lives.
    """

    __slots__ = (
        "_application",
        "_chooser",
        "_deployment",
        "_hold",
        "_request_id",
        "_slots",
        "_timeout_s",
        "_ttl_s",
    )

    def __init__(
        self,
        chooser: Chooser,
        application: str,
        deployment: str,
        *,
        timeout_s: float | None,
        slots: int,
        ttl_s: float | None,
        request_id: str,
    ) -> None:
        self._chooser = chooser
        self._application = application
        self._deployment = deployment
        self._timeout_s = timeout_s
        self._slots = slots
        self._ttl_s = ttl_s
        self._request_id = request_id

    async def __aenter__(self) -> ReplicaSelection:
        deadline = deadline_of(self._timeout_s)
        chooser, ttl_s = self._chooser, self._ttl_s
        key = chooser.key_of(self._application, self._deployment)
        self._hold = chooser.router.hold(
            key, slots=self._slots, ttl_s=ttl_s, request_id=self._request_id, deadline=deadline
        )
        held = await self._hold.__aenter__()
        selection = ReplicaSelection(held, chooser.router, ttl_s=ttl_s, renew_until=deadline)
        chooser.keep(selection, self)
        return selection

    def __aexit__(self, *raised: object) -> Coroutine[Any, Any, bool | None]:
        self.end()
        return self._hold.__aexit__(None, None, None)
