"""The backend's port: where processes run, and what they may use there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve_core.model.gang import Strategy
from serve_core.model.ids import NodeId
from serve_core.model.resources import Resources
from serve_core.model.status import NodeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What one bundle asks for. With ``node_id`` it must be that node, and then with ``gpus`` those GPUs of it."""

    resources: Resources
    node_id: NodeId | None = None
    gpus: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """Bundles that are granted all together or not at all, under an id that the caller chose."""

    placement_id: str
    bundles: tuple[BundleRequest, ...]
    strategy: Strategy = Strategy.PACK


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleGrant:
    """Where one bundle is, and which GPUs of that node, counted from 0, are its own (one, if it asked for a fraction)."""

    node_id: NodeId
    resources: Resources
    gpus: tuple[int, ...] = ()
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A granted placement: one grant for each bundle, in the order of the request."""

    placement_id: str
    bundles: tuple[BundleGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRefused:
    """Why there is no placement. Not ``feasible``: it would not fit even if nothing else ran."""

    placement_id: str
    message: str
    feasible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """A process to start, under an id that the caller chose and that is never used again.

    Args:
        process_id: Its id: letters, digits, and ``. _ - ~``, because files are named after it.
        command: Program and arguments.
        env: Variables on top of the backend's own environment.
        working_dir: Its working directory and first place of import; empty means the backend's own.
        placement_id: The placement that it uses.
        bundle: Which of the placement's bundles it uses.
        child_bundles: How many of those behind it are for child processes of its own: it is told what is in them, see
            ``model.bundles``.
        log_name: Its output is appended to the log of this name; empty means ``process_id``.
    """

    process_id: str
    command: tuple[str, ...]
    placement_id: str
    bundle: int = 0
    child_bundles: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    log_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that runs, as far as the backend has noticed."""

    process_id: str
    pid: int
    placement_id: str
    bundle: int
    node_id: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessExited:
    """A process ended. ``exit_code`` is negative for a signal, and None when it cannot be known."""

    process_id: str
    exit_code: int | None
    log_tail: str = ""


BackendEvent = ProcessExited


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that a backend runs and holds."""

    processes: tuple[Process, ...]
    placements: tuple[Placement, ...]


class Backend(Protocol):
    """Every method is idempotent by the id that it is given."""

    async def open(self) -> None:
        """Finds what an earlier controller left, and starts to watch it.

        Raises:
            StoreUnusableError: The backend's own files cannot be read or written.
        """

    async def reserve(self, request: PlacementRequest) -> Placement | PlacementRefused:
        """Grants the whole placement, or nothing. A known id gets what it was granted before."""

    async def free(self, placement_id: str) -> None:
        """Gives a placement back; an unknown one is free already."""

    async def start(self, spec: ProcessSpec) -> Process:
        """Starts a process; a known id is not started again, even when it has ended since.

        Raises:
            ImportFailedError: The program or its working directory cannot be used.
        """

    async def stop(self, process_id: str, *, kill: bool) -> None:
        """Asks a process to end (SIGTERM), or ends it and all its children at once; an unknown one has ended already."""

    async def list(self) -> Listing:
        """What runs and what is reserved, now."""

    def nodes(self) -> tuple[NodeStatus, ...]:
        """What the nodes offer and what is reserved on them, now."""

    def events(self) -> AsyncIterator[BackendEvent]:
        """What happens, in order, from ``open`` on: for one reader, exactly once, until ``close``."""

    async def close(self) -> None:
        """Stops watching. Processes and placements stay."""
