"""A caller's request, and everything that became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica
from serve_core.model.slots import GangLease, Lease


class Kind(Enum):
    """What a caller asks a router for."""

    PLAIN = "plain"
    """Run it wherever there is room."""
    HOLD = "hold"
    """Promise slots, which stay the router's own until they are used or left."""
    TICKET = "ticket"
    """Promise slots, for anybody to use."""
    GANG = "gang"
    """Promise slots on every member of a gang, for anybody to use."""
    TOKEN = "token"
    """Run it where it was promised."""


@dataclass(eq=False, slots=True, kw_only=True)
class Call:
    """One request. ``done`` is called once, with its error if it failed.

    One that ``broadcasts`` runs on every member of a gang. ``part_leases`` are a gang's promise by member, ``granted_by`` who
    gave them; ``parts`` counts what routers asked of members for it, and ``part_done`` is called with the end of each such
    part that was to run.

    ``ran_at`` names the processes in which user code began for it, ``finished_at`` those in which it came to its end.
    ``excuses`` are faults that touched it.
    """

    name: str
    kind: Kind
    key: DeploymentKey
    slots: int = 1
    duration_s: float = 0.0
    ttl_s: float = 10.0
    request_id: str = ""
    token: str = ""
    arrived_at: float = 0.0
    deadline: float = 0.0
    router: str = ""
    done: Callable[[Call, ServeError | None], None] = lambda call, error: None
    broadcasts: bool = False
    gang_lease: GangLease | None = None
    part_leases: Mapping[ReplicaId, Lease] = field(default_factory=dict)
    granted_by: Sequence[Replica] = ()
    parts: int = 0
    part_done: Callable[[Call, ServeError | None], None] = lambda call, error: None
    error: ServeError | None = None
    over: bool = False
    cancelled: bool = False
    sent_to: list[ReplicaId] = field(default_factory=list)
    ran_at: list[str] = field(default_factory=list)
    finished_at: list[str] = field(default_factory=list)
    excuses: list[str] = field(default_factory=list)
    lease: Lease | None = None
    lease_at: ReplicaId | None = None

    def end(self, error: ServeError | None) -> None:
        """Tells the caller. Only the first time counts."""
        if not self.over:
            self.over, self.error = True, error
            self.done(self, error)
