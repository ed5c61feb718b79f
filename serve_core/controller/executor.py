"""Does what was planned: each action once at a time, a gang's actions in their order, and every outcome as an event."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from serve_core.backend.port import (
    Backend,
    BundleRequest,
    PlacementRequest,
    ProcessSpec,
)
from serve_core.backend.port import PlacementRefused as BackendRefused
from serve_core.controller.steady import Clock
from serve_core.errors import Reason, ServeError
from serve_core.model.actor import ActorEndpoint
from serve_core.model.gang import GangRoster
from serve_core.model.ids import GangId, ReplicaId
from serve_core.model.replica import Failure
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actions import (
    Action,
    Disown,
    FreePlacement,
    KillProcess,
    ReservePlacement,
    SendActors,
    SendDrain,
    SendReconfigure,
    SendRoster,
    StartProcess,
)
from serve_core.plan.events import (
    ActorsSent,
    DrainSent,
    Event,
    PlacementFreed,
    PlacementRefused,
    PlacementReserved,
    ProcessExited,
    ProcessStarted,
    Reconfigured,
    RosterSent,
    StartRefused,
)
from serve_core.runtime import log
from serve_core.runtime.supervisor import Supervisor

NO_ROOM = "NO_ROOM"
"""The reason of a failure that says that a placement was refused."""

REPLICA_PROGRAM = "replica"
"""What a replica runs, as after `python -m`."""

_log = log.get_logger(__name__)


class Commands(Protocol):
    """Sends commands over the streams of attached replicas. Each returns False if there is no such stream."""

    def reconfigure(self, replica_id: ReplicaId, epoch: int, spec: DeploymentSpec) -> bool:
        """Take these settings in place."""

    def roster(self, replica_id: ReplicaId, epoch: int, roster: GangRoster) -> bool:
        """This is who is in your gang."""

    def drain(self, replica_id: ReplicaId, epoch: int, budget_s: float, *, hold: bool) -> bool:
        """Finish within the budget, and end; with ``hold``, only when told so without, or with the budget."""

    def actors(self, replica_id: ReplicaId, epoch: int, actors: Sequence[ActorEndpoint]) -> bool:
        """These are your deployment's actors."""

    def disown(self, replica_id: ReplicaId, epoch: int, message: str) -> bool:
        """Nobody owns you: finish, and end."""


@dataclass(slots=True, kw_only=True)
class ReplicaLaunch:
    """What every replica's command line has in common; the address is known once the controller listens."""

    controller_address: str = ""
    max_message_bytes: int
    host: str = "127.0.0.1"
    die_with: int = 0

    def command(self, action: StartProcess) -> tuple[str, ...]:
        """The command that starts a replica."""
        options = {
            "--controller": self.controller_address,
            "--replica-id": action.replica_id,
            "--epoch": str(action.epoch),
            "--host": self.host,
            "--node-id": action.replica.node_id,
            "--max-message-bytes": str(self.max_message_bytes),
        }
        if action.is_actor:
            options["--role"] = "actor"
        if self.die_with:
            options["--die-with"] = str(self.die_with)
        flat = (word for option in options.items() for word in option)
        return (action.spec.interpreter or sys.executable, "-m", REPLICA_PROGRAM, *flat)


def process_id(replica_id: ReplicaId, epoch: int) -> str:
    """The backend's name of one start of a replica."""
    return f"{replica_id}.{epoch}"


def parse_process_id(text: str) -> tuple[ReplicaId, int] | None:
    """The start of a replica that a backend's name means, or None if it is no name of ours."""
    replica_id, dot, epoch = text.rpartition(".")
    return (ReplicaId(replica_id), int(epoch)) if dot and epoch.isdecimal() else None


class Executor:
    """Runs actions.

    Args:
        backend: Where processes and placements are.
        commands: How attached replicas are told.
        launch: How replicas are started.
        emit: Takes what came of an action.
        now: The time of those events.
        tasks: Owns the tasks that run the actions; an unexpected error is its failure.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        commands: Commands,
        launch: ReplicaLaunch,
        emit: Callable[[Event], None],
        now: Clock,
        tasks: Supervisor,
    ) -> None:
        self._backend = backend
        self._commands = commands
        self._launch = launch
        self._emit = emit
        self._now = now
        self._tasks = tasks
        # Bounded by what is planned: an action that is under way is not taken again.
        self._queues: dict[GangId, deque[Action]] = {}
        self._under_way: set[str] = set()

    def submit(self, actions: Iterable[Action]) -> None:
        """Runs these after the earlier ones of the same gang; what is under way already is skipped."""
        for action in actions:
            if action.action_id in self._under_way:
                continue
            self._under_way.add(action.action_id)
            queue = self._queues.get(action.gang_id)
            if queue is not None:
                queue.append(action)
                continue
            self._queues[action.gang_id] = deque([action])
            self._tasks.spawn(self._run_gang(action.gang_id), name=f"actions of {action.gang_id}")

    async def _run_gang(self, gang_id: GangId) -> None:
        queue = self._queues[gang_id]
        while queue:
            action = queue.popleft()
            _log.debug("action", action=action.action_id)
            event = await self._run(action)
            self._under_way.discard(action.action_id)
            if event is not None:
                self._emit(event)
        del self._queues[gang_id]

    async def _run(self, action: Action) -> Event | None:
        match action:
            case ReservePlacement():
                return await self._reserve(action)
            case StartProcess():
                return await self._start(action)
            case KillProcess():
                return await self._kill(action)
            case FreePlacement():
                return await self._free(action)
            case SendReconfigure() | SendRoster() | SendDrain() | SendActors() | Disown():
                return self._command(action)
            case _:
                assert_never(action)

    def _command(self, action: SendReconfigure | SendRoster | SendDrain | SendActors | Disown) -> Event | None:
        """Sends a command. Only what was sent has an outcome: a replica without a stream is told when it has one."""
        commands, replica_id, epoch = self._commands, action.replica_id, action.epoch
        match action:
            case SendReconfigure(spec=spec, config=config):
                if commands.reconfigure(replica_id, epoch, spec):
                    return Reconfigured(replica_id=replica_id, epoch=epoch, config=config, now=self._now())
            case SendRoster(roster=roster):
                if commands.roster(replica_id, epoch, roster):
                    return RosterSent(replica_id=replica_id, epoch=epoch, gang_epoch=roster.epoch, now=self._now())
            case SendDrain(budget_s=budget_s, hold=hold):
                if commands.drain(replica_id, epoch, budget_s, hold=hold):
                    return DrainSent(replica_id=replica_id, epoch=epoch, hold=hold, now=self._now())
            case SendActors(actors=actors):
                if commands.actors(replica_id, epoch, actors):
                    return ActorsSent(replica_id=replica_id, epoch=epoch, actors=actors, now=self._now())
            case Disown(message=message):
                commands.disown(replica_id, epoch, message)
            case _:
                assert_never(action)
        return None

    async def _reserve(self, action: ReservePlacement) -> Event:
        bundles = tuple(
            BundleRequest(resources=bundle.resources, node_id=bundle.node_id, gpus=bundle.gpu_indices)
            for bundle in action.bundles
        )
        try:
            result = await self._backend.reserve(PlacementRequest(placement_id=action.gang_id, bundles=bundles))
        except ServeError as error:
            return PlacementRefused(gang_id=action.gang_id, failure=self._failure(error), now=self._now())
        if isinstance(result, BackendRefused):
            failure = Failure(reason=NO_ROOM, message=result.message, time=self._now())
            return PlacementRefused(gang_id=action.gang_id, failure=failure, now=self._now())
        return PlacementReserved(gang_id=action.gang_id, now=self._now())

    async def _start(self, action: StartProcess) -> Event:
        spec = ProcessSpec(
            process_id=process_id(action.replica_id, action.epoch),
            command=self._launch.command(action),
            placement_id=action.gang_id,
            bundle=action.bundle_index,
            child_bundles=action.child_bundles,
            env={**action.spec.env, **action.env},
            working_dir=action.spec.working_dir,
            log_name=action.replica_id,
        )
        try:
            process = await self._backend.start(spec)
        except ServeError as error:
            return StartRefused(
                replica_id=action.replica_id, epoch=action.epoch, failure=self._failure(error), now=self._now()
            )
        _log.info("process started", replica=action.replica_id, replica_pid=process.pid)
        return ProcessStarted(replica_id=action.replica_id, epoch=action.epoch, pid=process.pid, now=self._now())

    async def _kill(self, action: KillProcess) -> Event | None:
        name = process_id(action.replica_id, action.epoch)
        listing = await self._backend.list()
        if any(process.process_id == name for process in listing.processes):
            await self._backend.stop(name, kill=True)
            return None  # The backend tells when it has ended.
        return ProcessExited(replica_id=action.replica_id, epoch=action.epoch, exit_code=None, now=self._now())

    async def _free(self, action: FreePlacement) -> Event:
        await self._backend.free(action.gang_id)
        return PlacementFreed(gang_id=action.gang_id, now=self._now())

    def _failure(self, error: ServeError) -> Failure:
        reason = getattr(error, "reason", Reason.IMPORT_FAILED)
        return Failure(reason=reason, message=error.message, time=self._now())
