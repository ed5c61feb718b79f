"""Does what was planned: a gang's actions in their order, each once at a time, and every outcome as an event."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, assert_never

from serve_core.backend.port import PlacementRefused
from serve_core.errors import ImportFailedError
from serve_core.model.ids import GangId
from serve_core.model.replica import Failure
from serve_core.plan import actions as act
from serve_core.plan import events

if TYPE_CHECKING:
    from tests.simulation.controller import Controller

ASKS_BACKEND = (act.ReservePlacement, act.StartProcess, act.KillProcess, act.FreePlacement)
COMMAND_S = 0.01


class Executor:
    """The hands of one life of a controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._random = controller.cluster.engine.randomness(f"executor {controller.life}")
        self._queues: dict[GangId, deque[act.Action]] = {}
        self._under_way: set[str] = set()

    def submit(self, actions: Iterable[act.Action]) -> None:
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
            self._controller.later(0.0, partial(self._next, action.gang_id))

    def _next(self, gang_id: GangId) -> None:
        queue = self._queues[gang_id]
        if not queue:
            del self._queues[gang_id]
            return
        action = queue.popleft()
        outcome: list[events.Event | None] = [None]

        def do() -> None:
            self._controller.engine.note(f"does {action.action_id}")
            outcome[0] = self._do(action)

        if self._controller.effect(action.action_id, do):
            # Only the backend may be slow: a command is handed to the stream of its replica.
            slow_s = self._controller.cluster.backend.slow_s if isinstance(action, ASKS_BACKEND) else COMMAND_S
            self._controller.later(slow_s * self._random.random(), partial(self._done, action, outcome[0]))

    def _done(self, action: act.Action, event: events.Event | None) -> None:
        self._under_way.discard(action.action_id)
        if event is not None:
            self._controller.tell(event)
        self._next(action.gang_id)

    def _do(self, action: act.Action) -> events.Event | None:
        match action:
            case act.ReservePlacement() | act.StartProcess() | act.KillProcess() | act.FreePlacement():
                return self._ask_backend(action)
            case act.SendReconfigure() | act.SendRoster() | act.SendDrain() | act.SendActors() | act.Disown():
                return self._command(action)
            case _:
                assert_never(action)

    def _ask_backend(
        self, action: act.ReservePlacement | act.StartProcess | act.KillProcess | act.FreePlacement
    ) -> events.Event | None:
        backend, now = self._controller.cluster.backend, self._controller.engine.now
        match action:
            case act.ReservePlacement(gang_id=gang_id):
                answer = backend.reserve(action)
                if isinstance(answer, PlacementRefused):
                    failure = Failure(reason="NO_ROOM", message=answer.message, time=now)
                    return events.PlacementRefused(gang_id=gang_id, failure=failure, now=now)
                return events.PlacementReserved(gang_id=gang_id, now=now)
            case act.StartProcess(replica_id=replica_id, epoch=epoch):
                try:
                    pid = backend.start(action)
                except ImportFailedError as error:
                    failure = Failure(reason=error.reason, message=error.message, time=now)
                    return events.StartRefused(replica_id=replica_id, epoch=epoch, failure=failure, now=now)
                return events.ProcessStarted(replica_id=replica_id, epoch=epoch, pid=pid, now=now)
            case act.KillProcess(replica_id=replica_id, epoch=epoch):
                self._controller.cluster.checks.killed(replica_id, epoch)
                if backend.kill(f"{replica_id}.{epoch}"):
                    return None
                return events.ProcessExited(replica_id=replica_id, epoch=epoch, exit_code=None, now=now)
            case act.FreePlacement(gang_id=gang_id):
                backend.free(gang_id)
                return events.PlacementFreed(gang_id=gang_id, now=now)

    def _command(
        self, action: act.SendReconfigure | act.SendRoster | act.SendDrain | act.SendActors | act.Disown
    ) -> events.Event | None:
        controller = self._controller
        session, now = controller.sessions.get(action.replica_id), controller.engine.now
        if session is None or session.process.epoch != action.epoch:
            return None
        process, stream = session.process, session.stream
        match action:
            case act.SendReconfigure(replica_id=replica_id, epoch=epoch, spec=spec, config=config):
                stream.send(process, partial(process.reconfigure, spec))
                return events.Reconfigured(replica_id=replica_id, epoch=epoch, config=config, now=now)
            case act.SendRoster(replica_id=replica_id, epoch=epoch, roster=roster):
                stream.send(process, partial(process.membership.take, roster))
                return events.RosterSent(replica_id=replica_id, epoch=epoch, gang_epoch=roster.epoch, now=now)
            case act.SendDrain(replica_id=replica_id, epoch=epoch, budget_s=budget_s, hold=hold):
                stream.send(process, partial(process.leaving.begin, budget_s, hold=hold))
                return events.DrainSent(replica_id=replica_id, epoch=epoch, hold=hold, now=now)
            case act.SendActors(replica_id=replica_id, epoch=epoch, actors=actors):
                stream.send(process, partial(process.directory.take, actors))
                return events.ActorsSent(replica_id=replica_id, epoch=epoch, actors=actors, now=now)
            case act.Disown():
                stream.send(process, partial(process.leaving.begin, None, disowned=True))
                return None
