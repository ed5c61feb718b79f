"""Deployment actors: long-lived objects that the replicas of a deployment share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from serve_core.model.health import HealthPolicy
from serve_core.model.ids import ReplicaId
from serve_core.model.payload import Payload
from serve_core.model.replica import Failure
from serve_core.model.resources import Resources

NOBODY = ReplicaId("")

_DIGITS_MAX = 18

SHARED_SCOPE = "shared:"
"""Begins the scope of an actor that outlives revisions."""


class ActorOnFailure(StrEnum):
    """What becomes of an actor that ends after it was ready."""

    RESTART = "RESTART"
    """It starts again, empty."""
    RESTART_FROM_SNAPSHOT = "RESTART_FROM_SNAPSHOT"
    """It starts again from the last state that it saved."""
    RESTART_REPLICAS = "RESTART_REPLICAS"
    """It starts again, empty; then the replicas are replaced, in whole gangs and within ``max_unavailable``."""


class ActorSharing(StrEnum):
    """How long an actor lives."""

    REVISION = "revision"
    """Each revision of the deployment has its own."""
    DEPLOYMENT = "deployment"
    """All revisions that describe it in the same way share it."""


@dataclass(frozen=True, slots=True, order=True)
class ActorKey:
    """Which actor of a deployment: ``scope`` is the revision whose it is, or, of one that revisions share, starts with
    ``SHARED_SCOPE`` and names what it runs.
    """

    name: str
    scope: str

    @property
    def is_shared(self) -> bool:
        """Whether it is the deployment's, and not one revision's."""
        return self.scope.startswith(SHARED_SCOPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """What an actor should be. See ``serve_core.v1.ActorSpec`` for each field; times are in seconds.

    ``snapshot_interval_s`` 0 means that no snapshot is taken by time.
    """

    name: str
    import_path: str
    init_arguments: Payload | None = None
    resources: Resources = Resources()
    env: Mapping[str, str] = field(default_factory=dict)
    max_concurrency: int = 100
    health: HealthPolicy = HealthPolicy()
    start_deadline_s: float = 60.0
    max_restarts: int = 5
    on_failure: ActorOnFailure = ActorOnFailure.RESTART
    snapshot_interval_s: float = 0.0
    shared: ActorSharing = ActorSharing.REVISION


@dataclass(frozen=True, slots=True)
class Incarnation:
    """Which life of an actor a call is meant for: its number, and the process that runs it, if that is known."""

    number: int
    replica_id: ReplicaId = NOBODY

    @classmethod
    def parse(cls, text: str) -> Incarnation | None:
        """The life that ``text`` names: ``NUMBER`` or ``NUMBER@REPLICA_ID``; None if it names none."""
        number, _, replica_id = text.partition("@")
        if not (number.isascii() and number.isdigit() and len(number) <= _DIGITS_MAX):
            return None
        return cls(int(number), ReplicaId(replica_id))

    @property
    def text(self) -> str:
        """What ``parse`` reads."""
        return f"{self.number}@{self.replica_id}" if self.replica_id else str(self.number)

    def __str__(self) -> str:
        """For messages."""
        return f"incarnation {self.number} of an actor" + (f", {self.replica_id}" if self.replica_id else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorEndpoint:
    """One actor, as its deployment's replicas know it. See ``serve_core.v1.ActorEndpoint`` for each field."""

    name: str
    incarnation: int
    address: str = ""
    failure: Failure | None = None
    restored: bool = False
    given_up: str = ""
    replica_id: ReplicaId = NOBODY


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorAssignment:
    """Which actor a process is to run, which life of it, and whether it is to start from a stored state."""

    name: str
    incarnation: int
    restore: bool = False
