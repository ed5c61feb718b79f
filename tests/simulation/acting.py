"""A process that runs a deployment's actor: what it counts, and the snapshots of that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from serve_core.model.actor import ActorAssignment, ActorKey, ActorOnFailure, ActorSpec
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import ReplicaPhase

if TYPE_CHECKING:
    from tests.simulation.process import Process

AGAIN_S = 1.0
"""What was not answered is asked again after this."""


class Acting:
    """One life of an actor. Its state is how often it was called, in this life and those that it begins from.

    Attributes:
        incarnation: Which life it is; 0 until it is known.
        began_from: How often those before it were called.
    """

    def __init__(self, process: Process, spec: ActorSpec, key: ActorKey) -> None:
        self.process = process
        self.spec = spec
        self.key = key
        self.incarnation = 0
        self.value = self.began_from = 0
        self._knows_state = False
        self._sequence = 0
        self._stored = 0
        self._last: int | None = None

    @property
    def identity(self) -> tuple[DeploymentKey, ActorKey]:
        """Which actor of which deployment."""
        return self.process.key, self.key

    @property
    def settled(self) -> bool:
        """Whether nothing keeps it from its end."""
        return self._last is None or self._stored >= self._last

    @property
    def is_saving(self) -> bool:
        """Whether it has something to store before its end."""
        return not self.settled

    def welcomed(self, assignment: ActorAssignment) -> None:
        """It learns which life it is, and begins from what is stored, if it is to."""
        if self.incarnation:
            return
        self.incarnation = assignment.incarnation
        if assignment.restore:
            self._ask_for_state()
        else:
            self._begin(0)

    def ready(self) -> None:
        """User code is loaded."""
        if self.spec.snapshot_interval_s:
            self.process.later(self.spec.snapshot_interval_s, self._tick)

    def called(self, caller: Process, incarnation: int) -> None:
        """A replica calls the life that it knows."""
        process = self.process
        process.notice()
        if process.phase is not ReplicaPhase.READY or process.slots.ledger.suspended:
            return
        if incarnation == self.incarnation:
            process.cluster.checks.actors.called(process, caller)
            self.value += 1

    def save(self) -> None:
        """Sends its state to be stored."""
        if not self.incarnation or self.process.phase not in (ReplicaPhase.READY, ReplicaPhase.DRAINING):
            return
        self._sequence += 1
        self._send(self._sequence, self.value)

    def saved(self, sequence: int) -> None:
        """The controller has stored this state, or one that is newer."""
        self._stored = max(self._stored, sequence)
        self.process.leaving.advance()

    def fenced(self) -> None:
        """The controller refuses: another life has taken its place."""
        self._last = None
        self.process.leaving.advance()

    def finish(self) -> None:
        """It is to end: what it knows is stored first."""
        if self.spec.on_failure is ActorOnFailure.RESTART_FROM_SNAPSHOT and self._last is None:
            self._last = self._sequence + 1
            self._finish()

    def _finish(self) -> None:
        if not self.settled:
            self.save()
            self.process.later(AGAIN_S, self._finish)

    def _tick(self) -> None:
        if self.process.phase is ReplicaPhase.READY:
            self.save()
            self.process.later(self.spec.snapshot_interval_s, self._tick)

    def _send(self, sequence: int, value: int) -> None:
        stream, controller = self.process.attachment, self.process.cluster.controller
        if stream is not None and controller is not None and stream.server is controller:
            save = partial(controller.states.save, self, sequence, value)
            stream.ask(controller, save, partial(stream.send, self.process))

    def _ask_for_state(self) -> None:
        if self._knows_state:
            return
        stream, controller = self.process.attachment, self.process.cluster.controller
        if stream is not None and controller is not None and stream.server is controller:
            stream.ask(controller, partial(controller.states.load, self), partial(stream.send, self.process))
        self.process.later(AGAIN_S, self._ask_for_state)

    def loaded(self, value: int) -> None:
        """The controller hands out what is stored."""
        if not self._knows_state:
            self._begin(value)

    def _begin(self, value: int) -> None:
        self._knows_state = True
        self.value = self.began_from = value
        self.process.cluster.checks.actors.began(self)
        self.process.load()
