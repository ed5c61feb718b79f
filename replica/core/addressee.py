"""Whether a call is meant for the life of an actor that runs in this process.

Whoever calls an actor says which life of it he means. Between his look at the directory and the arrival of the call the
actor may have begun another one, or another process may listen at its address.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.errors import ActorFencedError, ConfigInvalidError, FieldViolation
from serve_core.model.actor import Incarnation
from serve_core.model.ids import ReplicaId

NO_ACTOR = 0


@dataclass(slots=True)
class Addressee:
    """Who runs here. ``incarnation`` is ``NO_ACTOR`` unless that is an actor."""

    replica_id: ReplicaId
    incarnation: int = NO_ACTOR

    def require(self, key: str, text: str) -> None:
        """Refuses a call for another life than the one here, by what its metadata ``key`` says.

        Raises:
            ActorFencedError: It is meant for another one. Nothing was run.
            ConfigInvalidError: The text names no life of an actor.
        """
        meant = Incarnation.parse(text)
        if meant is None:
            raise ConfigInvalidError((FieldViolation(key, f"{text[:40]!r} names no incarnation"),), what="the metadata")
        if meant.number == self.incarnation and meant.replica_id in ("", self.replica_id):
            return
        here = f"incarnation {self.incarnation}" if self.incarnation else "no actor"
        raise ActorFencedError(
            f"the call was meant for {meant}, and {self.replica_id} is {here}: nothing was run",
            details={
                "replicaId": self.replica_id,
                "incarnation": str(meant.number),
                "currentIncarnation": str(self.incarnation),
            },
        )
