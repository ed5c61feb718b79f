"""The controller's side of actors' snapshots: stored by who lives, in one transaction with the record of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from serve_core.controller.blobs import blobs, part_keys
from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey
from serve_core.plan.actor_records import SnapshotRecord
from serve_core.plan.actor_state import Caller, life_of, serving_life
from serve_core.plan.deploy import apply_change
from tests.simulation.acting import Acting
from tests.simulation.network import Answer

if TYPE_CHECKING:
    from tests.simulation.controller import Controller


class States:
    """What one life of a controller does with the states of actors."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def save(self, acting: Acting, sequence: int, value: int, answer: Answer) -> None:
        """An actor sends its state, maybe long after it was given up."""
        controller, caller = self._controller, _caller(acting)
        data = str(value).encode()
        snapshot = SnapshotRecord(
            incarnation=caller.incarnation,
            sequence=sequence,
            size_bytes=len(data),
            parts=1,
            time=controller.engine.now,
        )
        before = controller.records
        try:
            change = controller.cluster.cores.store_state(before, caller, snapshot)
        except ServeError as error:
            controller.engine.note(f"refused: {type(error).__name__} {acting.process.process_id}")
            answer(acting.fenced)
            return
        written = blobs(acting.process.key, acting.key, snapshot, [data]) if change.saved_deployments else {}
        what = f"state of {acting.process.process_id}"
        judge = partial(controller.cluster.checks.actors.stored, acting, sequence, value)
        if controller.save(apply_change(before, change), change.events, what, written=written, judge=judge):
            controller.wake(deployment.key for deployment in change.saved_deployments)
            answer(partial(acting.saved, sequence))

    def load(self, acting: Acting, answer: Answer) -> None:
        """A new life asks for what it begins from."""
        controller = self._controller
        try:
            life = life_of(controller.records, _caller(acting))
        except ServeError:
            answer(acting.fenced)
            return
        snapshot, value = life.actor.snapshot, 0
        if life.gang.restore and snapshot is not None:
            (part,) = part_keys(life.gang.key, life.actor.key, snapshot)
            value = int(controller.cluster.store.blobs[part])
        answer(partial(acting.loaded, value))

    def request(self, key: DeploymentKey, name: str) -> None:
        """An operator wants an actor's state stored now.

        Raises:
            ServeError: There is no such actor, or it does not serve.
        """
        controller = self._controller
        life = serving_life(controller.records, key, name)
        session = controller.sessions.get(life.gang.members[0].replica_id)
        if session is not None and session.process.acting is not None:
            session.stream.send(session.process, session.process.acting.save)


def _caller(acting: Acting) -> Caller:
    process = acting.process
    return Caller(replica_id=process.replica_id, epoch=process.epoch, incarnation=acting.incarnation)
