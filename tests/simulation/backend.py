"""Where processes run: the real accounts of nodes, and processes that outlive the controller."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from serve_core.backend.accounting import Accounts
from serve_core.backend.port import BundleRequest, Placement, PlacementRefused, PlacementRequest
from serve_core.errors import ImportFailedError
from serve_core.model.ids import ReplicaId
from serve_core.plan.actions import ReservePlacement, StartProcess
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

NEWS_S = 0.02


class Backend:
    """Idempotent by the ids that it is given, as the port demands.

    Attributes:
        refuses_placements: There is no room, whatever the accounts say.
        refuses_starts: No process can be started.
        slow_s: How long an answer may take.
        lingers_s: How long a process may go on after it was killed.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.accounts = Accounts(cluster.nodes.offers)
        self.processes: dict[str, Process] = {}
        self.refuses_placements = False
        self.refuses_starts = False
        self.slow_s = 0.01
        self.lingers_s = 0.0
        self._random = cluster.engine.randomness("backend")
        self._by_address: dict[str, Process] = {}
        self._ended: dict[str, int] = {}
        self._gone: dict[ReplicaId, list[str]] = {}
        self._pids = 100

    def adopted(self) -> None:
        """Another controller has opened it: what ended before is not remembered."""
        self._ended.clear()

    def reserve(self, action: ReservePlacement) -> Placement | PlacementRefused:
        """Grants a placement, whole or not at all."""
        away = [bundle.node_id for bundle in action.bundles if bundle.node_id in self.cluster.nodes.away]
        if self.accounts.get(action.gang_id) is None and (self.refuses_placements or away):
            return PlacementRefused(placement_id=action.gang_id, message=f"refused; away: {away}", feasible=True)
        bundles = tuple(
            BundleRequest(resources=bundle.resources, node_id=bundle.node_id, gpus=bundle.gpu_indices)
            for bundle in action.bundles
        )
        granted = self.accounts.reserve(PlacementRequest(placement_id=action.gang_id, bundles=bundles))
        self.cluster.checks.placed()
        return granted

    def free(self, placement_id: str) -> None:
        """Gives a placement back."""
        self.accounts.free(placement_id)
        self.cluster.checks.freed(placement_id)

    def start(self, action: StartProcess) -> int:
        """Starts a process, and says its pid.

        Raises:
            ImportFailedError: It cannot be started.
        """
        name = f"{action.replica_id}.{action.epoch}"
        known = self.processes.get(name)
        if known is not None:
            return known.pid
        if name in self._ended:
            return self._ended[name]
        if self.accounts.get(action.gang_id) is None:
            raise ImportFailedError(f"{name} has no placement")
        if self.refuses_starts or action.bundle.node_id in self.cluster.nodes.away:
            raise ImportFailedError(f"{name} cannot be started")
        self._pids += 1
        process = Process(self.cluster, action, self._pids)
        self.processes[name] = self._by_address[process.address] = process
        self.cluster.checks.spawned(process)
        process.later(NEWS_S, process.begin)
        return process.pid

    def kill(self, name: str) -> bool:
        """Ends a process, at once or as soon as its node can; says whether it ran."""
        process = self.processes.get(name)
        if process is None:
            return False
        lasts_s = max(self.lingers_s * self._random.random(), process.immortal_until - self.cluster.engine.now)
        if lasts_s > 0:
            self.cluster.engine.later(lasts_s, partial(_end, process))
        else:
            process.end(-9)
        return True

    def exited(self, process: Process, exit_code: int) -> None:
        """A process has ended. With its node, nobody is left to say so."""
        del self.processes[process.process_id]
        self._ended[process.process_id] = process.pid
        self._gone.setdefault(process.replica_id, []).extend(process.faults)
        self.cluster.checks.ended(process)
        if process.node_id in self.cluster.nodes.away:
            return
        controller = self.cluster.controller
        if controller is not None:
            controller.later(NEWS_S, partial(controller.exited, process, exit_code))

    def listening(self, address: str) -> Process | None:
        """The process at an address."""
        process = self._by_address.get(address)
        return process if process is not None and process.alive else None

    def faults_of_ended(self, replica_id: ReplicaId) -> list[str] | None:
        """The faults that had touched every start of a replica that has ended; None if there was none of this id."""
        return self._gone.get(replica_id)

    def process_of(self, replica_id: ReplicaId) -> Process | None:
        """The newest start of a replica that still runs."""
        return next((one for one in reversed(self.processes.values()) if one.replica_id == replica_id), None)


def _end(process: Process) -> None:
    if process.alive:
        process.end(-9)
