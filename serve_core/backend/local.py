"""The default backend: processes of this machine, with exact accounts of what they may use.

A process survives this backend, and is adopted by the next one that opens the same folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_core.backend.accounting import Accounts, NodeOffer
from serve_core.backend.children import Child, Launch, SpawnedChild
from serve_core.backend.forking import ForkServer
from serve_core.backend.identity import ProcessIdentity, end_group, find_marked, identify, open_pidfd
from serve_core.backend.journal import Journal, ProcessRecord
from serve_core.backend.port import (
    BackendEvent,
    BundleGrant,
    Listing,
    Placement,
    PlacementRefused,
    PlacementRequest,
    Process,
    ProcessExited,
    ProcessSpec,
)
from serve_core.errors import ImportFailedError
from serve_core.model.bundles import BUNDLES_ENV, ChildBundle, bundles_text
from serve_core.model.ids import NodeId
from serve_core.model.status import NodeStatus

MARKER = "SERVE_CORE_PROCESS_ID"
"""Set in every process, so that one whose start was not noted in full is found again."""

_ENDED_REMEMBERED = 10_000
_LOG_TAIL_BYTES = 2048


@dataclass(slots=True)
class _Running:
    """A process under watch. ``child`` is there if it was started here, and not adopted."""

    process: Process
    identity: ProcessIdentity
    pidfd: int
    log_path: Path
    child: Child | None = None


class LocalBackend:
    """Processes of this machine.

    Args:
        state_dir: Where the journal and the logs of the processes are kept.
        offers: The nodes; more than one divides the machine into virtual nodes.
        environment: What processes inherit, before their own variables.
        forks: The program, as after ``python -m``, that a fork server starts wherever that comes to the same as a new
            process; None means that there is no fork server.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        offers: Sequence[NodeOffer],
        environment: Mapping[str, str],
        forks: str | None = None,
    ) -> None:
        self._journal = Journal(state_dir)
        self._accounts = Accounts(offers)
        self._gpu_ids = {
            offer.node_id: offer.gpu_ids or tuple(str(gpu) for gpu in range(int(offer.total.gpus))) for offer in offers
        }
        self._environment = dict(environment)
        self._fork_server = ForkServer(forks, self._environment, MARKER) if forks is not None else None
        self._starting = asyncio.Lock()
        self._running: dict[str, _Running] = {}
        self._ended: OrderedDict[str, Process] = OrderedDict()
        # Holds at most one event for each process, and None at the end.
        self._events: asyncio.Queue[BackendEvent | None] = asyncio.Queue()

    async def open(self) -> None:
        """See ``Backend.open``."""
        self._journal.open()
        for placement in self._journal.placements():
            self._accounts.restore(placement)
        for record in self._journal.processes():
            self._adopt(record)
        if self._fork_server is not None:
            self._fork_server.open()

    async def reserve(self, request: PlacementRequest) -> Placement | PlacementRefused:
        """See ``Backend.reserve``."""
        result = self._accounts.reserve(request)
        if isinstance(result, Placement):
            self._journal.write_placement(result)
        return result

    async def free(self, placement_id: str) -> None:
        """See ``Backend.free``."""
        if self._accounts.free(placement_id):
            self._journal.remove_placement(placement_id)

    async def start(self, spec: ProcessSpec) -> Process:
        """See ``Backend.start``."""
        async with self._starting:  # Of two starts of the same process, the second finds it.
            return await self._start(spec)

    async def _start(self, spec: ProcessSpec) -> Process:
        known = self._running.get(spec.process_id)
        if known is not None:
            return known.process
        ended = self._ended.get(spec.process_id)
        if ended is not None:
            return ended
        grants = self._grants(spec)
        record = ProcessRecord(
            process_id=spec.process_id,
            placement_id=spec.placement_id,
            bundle=spec.bundle,
            node_id=grants[0].node_id,
            log_name=spec.log_name or spec.process_id,
        )
        # Noted first: if this process dies before the next note, the marker still leads to the child.
        self._journal.write_process(record)
        launch = Launch(
            process_id=spec.process_id,
            command=spec.command,
            environment=self._environment_of(spec, *grants),
            working_dir=spec.working_dir,
            log_path=self._journal.log_path(record.log_name),
        )
        try:
            child = SpawnedChild(launch) if self._fork_server is None else await self._fork_server.start(launch)
        except OSError as error:
            self._journal.remove_process(spec.process_id)
            raise ImportFailedError(
                f"cannot start '{spec.process_id}' with '{spec.command[0]}' in '{spec.working_dir or os.getcwd()}': "
                f"{error.strerror}: {error.filename}; check the interpreter and the working directory",
                details={"processId": spec.process_id, "cause": str(error)},
            ) from error
        return self._watch_child(record, child)

    async def stop(self, process_id: str, *, kill: bool) -> None:
        """See ``Backend.stop``."""
        running = self._running.get(process_id)
        if running is None:
            return
        if kill:
            end_group(running.identity)
        try:
            signal.pidfd_send_signal(running.pidfd, signal.SIGKILL if kill else signal.SIGTERM)
        except ProcessLookupError:
            return  # It has ended; its exit event is on the way.

    async def list(self) -> Listing:
        """See ``Backend.list``."""
        return Listing(
            processes=tuple(running.process for running in self._running.values()), placements=self._accounts.placements
        )

    def nodes(self) -> tuple[NodeStatus, ...]:
        """See ``Backend.nodes``."""
        return self._accounts.statuses()

    async def events(self) -> AsyncIterator[BackendEvent]:
        """See ``Backend.events``."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """See ``Backend.close``."""
        loop = asyncio.get_running_loop()
        for running in self._running.values():
            loop.remove_reader(running.pidfd)
            os.close(running.pidfd)
            if running.child is not None:
                running.child.let_go()
        self._running.clear()
        if self._fork_server is not None:
            await self._fork_server.close()
        self._events.put_nowait(None)

    def log_path(self, log_name: str) -> Path:
        """Where the output of a process goes."""
        return self._journal.log_path(log_name)

    def _grants(self, spec: ProcessSpec) -> tuple[BundleGrant, ...]:
        """The process's own, and those of its children."""
        placement = self._accounts.get(spec.placement_id)
        if placement is None or spec.bundle + spec.child_bundles >= len(placement.bundles):
            raise ImportFailedError(
                f"cannot start '{spec.process_id}': its placement '{spec.placement_id}' is not reserved; reserve it first",
                details={"processId": spec.process_id, "placementId": spec.placement_id},
            )
        return placement.bundles[spec.bundle : spec.bundle + 1 + spec.child_bundles]

    def _environment_of(self, spec: ProcessSpec, grant: BundleGrant, *children: BundleGrant) -> dict[str, str]:
        environment = {**self._environment, **spec.env, MARKER: spec.process_id}
        first = os.path.abspath(spec.working_dir or os.getcwd())
        rest = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join([first, rest] if rest else [first])
        if self._gpu_ids.get(grant.node_id):
            # Set also when empty: on a node with GPUs, who asked for none must not see any.
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpu_ids_of(grant))
        if children:
            environment[BUNDLES_ENV] = bundles_text(
                ChildBundle(resources=child.resources, gpu_ids=self._gpu_ids_of(child)) for child in children
            )
        return environment

    def _gpu_ids_of(self, grant: BundleGrant) -> tuple[str, ...]:
        gpu_ids = self._gpu_ids.get(grant.node_id)
        return tuple(gpu_ids[gpu] for gpu in grant.gpus) if gpu_ids else ()

    def _watch_child(self, record: ProcessRecord, child: Child) -> Process:
        # Nobody has waited for our child yet, so its pid is still its own.
        identity = identify(child.pid)
        if identity is None:
            raise ProcessLookupError(f"the child {child.pid} was waited for by someone else")
        self._journal.write_process(
            ProcessRecord(
                process_id=record.process_id,
                placement_id=record.placement_id,
                bundle=record.bundle,
                node_id=record.node_id,
                log_name=record.log_name,
                identity=identity,
            )
        )
        return self._watch(record, identity, os.pidfd_open(child.pid), child)

    def _adopt(self, record: ProcessRecord) -> None:
        """Watches a process that an earlier backend started; if it ended meanwhile, says so."""
        identity = record.identity or find_marked(f"{MARKER}={record.process_id}".encode())
        pidfd = open_pidfd(identity) if identity is not None else None
        if identity is None or pidfd is None:
            self._forget(record.process_id, None, self._journal.log_path(record.log_name))
            return
        self._watch(record, identity, pidfd, None)

    def _watch(self, record: ProcessRecord, identity: ProcessIdentity, pidfd: int, child: Child | None) -> Process:
        process = Process(
            process_id=record.process_id,
            pid=identity.pid,
            placement_id=record.placement_id,
            bundle=record.bundle,
            node_id=NodeId(record.node_id),
        )
        log_path = self._journal.log_path(record.log_name)
        self._running[record.process_id] = _Running(process, identity, pidfd, log_path, child)
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit, record.process_id)
        return process

    def _on_exit(self, process_id: str) -> None:
        running = self._running.pop(process_id)
        asyncio.get_running_loop().remove_reader(running.pidfd)
        os.close(running.pidfd)
        # Before it is waited for: until then its group's id cannot be another's.
        end_group(running.identity)
        exit_code = running.child.exit_code() if running.child is not None else None
        self._ended[process_id] = running.process
        while len(self._ended) > _ENDED_REMEMBERED:
            self._ended.popitem(last=False)
        self._forget(process_id, exit_code, running.log_path)

    def _forget(self, process_id: str, exit_code: int | None, log_path: Path) -> None:
        self._journal.remove_process(process_id)
        self._events.put_nowait(ProcessExited(process_id=process_id, exit_code=exit_code, log_tail=_tail(log_path)))


def _tail(path: Path) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
    except OSError:
        return ""
