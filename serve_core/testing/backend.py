"""A backend without processes: what starts, runs until the test ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from serve_core.backend.accounting import Accounts, NodeOffer
from serve_core.backend.port import (
    BackendEvent,
    Listing,
    Placement,
    PlacementRefused,
    PlacementRequest,
    Process,
    ProcessExited,
    ProcessSpec,
)
from serve_core.errors import ImportFailedError, ServeError
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.model.status import NodeStatus

SIGTERM_CODE = -15
SIGKILL_CODE = -9
_FIRST_PID = 100_000


class FakeBackend:
    """Keeps exact accounts, as the real ones do, and remembers what was asked of it.

    ``started`` holds every spec that was started, ``stopped`` every (process id, kill) that was stopped. A process that is
    asked to end, ends at once. It survives ``close``: opened again, it lists what runs, as a real one would.
    """

    def __init__(self, offers: Sequence[NodeOffer] | None = None) -> None:
        self._accounts = Accounts(offers or (NodeOffer(node_id=NodeId("node-0"), total=Resources(cpus=8.0)),))
        self._running: dict[str, Process] = {}
        self._ended: dict[str, Process] = {}
        self._refusals: list[ServeError] = []
        # Holds at most one event for each process, and None at the end.
        self._events: asyncio.Queue[BackendEvent | None] = asyncio.Queue()
        self._started_changed = asyncio.Condition()
        self.started: list[ProcessSpec] = []
        self.stopped: list[tuple[str, bool]] = []

    async def open(self) -> None:
        """See ``Backend.open``."""
        self._events = asyncio.Queue()

    async def reserve(self, request: PlacementRequest) -> Placement | PlacementRefused:
        """See ``Backend.reserve``."""
        return self._accounts.reserve(request)

    async def free(self, placement_id: str) -> None:
        """See ``Backend.free``."""
        self._accounts.free(placement_id)

    async def start(self, spec: ProcessSpec) -> Process:
        """See ``Backend.start``."""
        known = self._running.get(spec.process_id) or self._ended.get(spec.process_id)
        if known is not None:
            return known
        if self._refusals:
            raise self._refusals.pop(0)
        placement = self._accounts.get(spec.placement_id)
        if placement is None or spec.bundle >= len(placement.bundles):
            raise ImportFailedError(f"the placement '{spec.placement_id}' is not reserved; reserve it first")
        process = Process(
            process_id=spec.process_id,
            pid=_FIRST_PID + len(self.started),
            placement_id=spec.placement_id,
            bundle=spec.bundle,
            node_id=placement.bundles[spec.bundle].node_id,
        )
        self._running[spec.process_id] = process
        async with self._started_changed:
            self.started.append(spec)
            self._started_changed.notify_all()
        return process

    async def stop(self, process_id: str, *, kill: bool) -> None:
        """See ``Backend.stop``."""
        self.stopped.append((process_id, kill))
        self.exit(process_id, SIGKILL_CODE if kill else SIGTERM_CODE)

    async def list(self) -> Listing:
        """See ``Backend.list``."""
        return Listing(processes=tuple(self._running.values()), placements=self._accounts.placements)

    def nodes(self) -> tuple[NodeStatus, ...]:
        """See ``Backend.nodes``."""
        return self._accounts.statuses()

    async def events(self) -> AsyncIterator[BackendEvent]:
        """See ``Backend.events``."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """See ``Backend.close``."""
        self._events.put_nowait(None)

    def exit(self, process_id: str, exit_code: int | None = 0) -> None:
        """Lets a process end; one that does not run has ended already."""
        process = self._running.pop(process_id, None)
        if process is not None:
            self._ended[process_id] = process
            self._events.put_nowait(ProcessExited(process_id=process_id, exit_code=exit_code))

    def refuse_next_start(self, error: ServeError) -> None:
        """Makes the next start of a process fail."""
        self._refusals.append(error)

    async def wait_started(self, count: int) -> tuple[ProcessSpec, ...]:
        """Waits until so many processes have been started in all, and returns them, oldest first."""
        async with self._started_changed:
            await self._started_changed.wait_for(lambda: len(self.started) >= count)
            return tuple(self.started)
