"""What the controller persists of a deployment's actors. Times are in seconds since the Unix epoch."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.model.actor import ActorKey
from serve_core.model.ids import GangId
from serve_core.model.replica import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRecord:
    """The stored state of an actor: which life gave it, as its how-manieth, when, how large it is, and in how many parts."""

    incarnation: int
    sequence: int
    size_bytes: int
    parts: int
    time: float

    def is_at_least(self, incarnation: int, sequence: int) -> bool:
        """Whether it is this state, or a newer one."""
        return (self.incarnation, self.sequence) >= (incarnation, sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRecord:
    """One actor of a deployment, over all of its lives.

    Attributes:
        key: Which actor.
        gang_id: What runs its present life; None between two, and as soon as one is to end.
        incarnation: Which life that is, or the last one was; raised when one is begun.
        address: Where it serves; empty while it does not.
        suspicion: Why it may not serve though its address is known, such as that heartbeats are missing; else empty.
        restores: Whether a life begins from the stored state, if there is one.
        restored: Whether the present one did.
        first_ready_at: When it was ready for the first time, since a revision wanted it; 0 before. Replicas wait for that,
            once.
        failures: Lives that failed in a row: that did not start, or ended soon after.
        restarts: How often it was begun again after it had served.
        retry_at: No life is begun before this.
        failure: Why the last life ended.
        given_up: Why none is begun any more, until an operator acts.
        renewed_at: When its present life was begun, if replicas from before are to be replaced for it; else 0.
        snapshot: Its stored state.
    """

    key: ActorKey
    gang_id: GangId | None = None
    incarnation: int = 0
    address: str = ""
    suspicion: str = ""
    restores: bool = False
    restored: bool = False
    first_ready_at: float = 0.0
    failures: int = 0
    restarts: int = 0
    retry_at: float = 0.0
    failure: Failure | None = None
    given_up: Failure | None = None
    renewed_at: float = 0.0
    snapshot: SnapshotRecord | None = None

    @property
    def next_incarnation(self) -> int:
        """Which life it is in, or is to begin."""
        return self.incarnation if self.gang_id is not None else self.incarnation + 1

    @property
    def is_lost(self) -> bool:
        """Whether it served and does not now, though it should."""
        return bool(self.first_ready_at and not self.address)
