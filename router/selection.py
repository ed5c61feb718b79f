"""A replica or a gang that was chosen and has promised slots, before the request is sent there."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from router.forward import Router
from router.gangs import HeldGang
from router.reservation import Held
from router.upstream import Upstream
from serve_core.errors import (
    ConfigInvalidError,
    FieldViolation,
    ServeError,
    SlotConsumedError,
)
from serve_core.model.ids import DeploymentKey, GangId, GangToken, NodeId, ReplicaId
from serve_core.model.replica import Gang, Replica
from serve_core.model.slots import AnyLease
from serve_core.runtime.clock import monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A promise of slots that any process may dispatch: small, and text when it travels.

    Attributes:
        application: Whose promise it is.
        deployment: Whose promise it is.
        replica_id: Who promised; of a gang, its leader.
        address: ``host:port`` of that replica.
        slot_token: The token.
        slots: Slots that it holds, of a gang on each member.
        expire_time: When it ends unless it is dispatched, in seconds since the Unix epoch, by the replica's clock.
    """

    application: str
    deployment: str
    replica_id: str
    address: str
    slot_token: str
    slots: int
    expire_time: float

    @property
    def key(self) -> DeploymentKey:
        """The deployment."""
        return DeploymentKey(self.application, self.deployment)

    def __str__(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """The ticket that ``str(ticket)`` wrote.

        Raises:
            ConfigInvalidError: The text is no ticket; tells everything wrong with it.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigInvalidError([FieldViolation("", f"it is not JSON: {error}")], what="the ticket") from None
        violations = _violations(fields)
        if violations:
            raise ConfigInvalidError(violations, what="the ticket")
        return cls(**fields)


_TICKET_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "application": str,
    "deployment": str,
    "replica_id": str,
    "address": str,
    "slot_token": str,
    "slots": int,
    "expire_time": (int, float),
}


def _violations(fields: object) -> list[FieldViolation]:
    if not isinstance(fields, dict):
        return [FieldViolation("", "it is not a JSON object")]
    found = [FieldViolation(str(name), "is not a field of a ticket") for name in fields if name not in _TICKET_TYPES]
    for name, kind in _TICKET_TYPES.items():
        if not isinstance(fields.get(name), kind) or isinstance(fields.get(name), bool):
            found.append(FieldViolation(name, "is missing" if name not in fields else "has the wrong type"))
    if not found and GangToken.parse(fields["slot_token"]) is None:
        found.append(FieldViolation("slot_token", "is not in the form that serve-core issues"))
    return found


class SelectionState(Enum):
    """What became of a selection."""

    OPEN = "open"
    DISPATCHED = "dispatched"
    DETACHED = "turned into a ticket"
    RELEASED = "released"
    LOST = "lost"


class Selection(ABC):
    """A promise for a block of code: good for one dispatch, or for one ticket.

    Args:
        held: The promise.
        router: Renews it.
        ttl_s: The time to live that was asked for; None means the deployment's default.
        renew_until: Monotonic seconds until which it is renewed; None means for as long as the block lasts.
    """

    __slots__ = ("_held", "_loss", "_renew_until", "_renewed", "_router", "_state", "_ttl_s")

    def __init__(
        self, held: Held | HeldGang, router: Router, *, ttl_s: float | None, renew_until: float | None
    ) -> None:
        self._held = held
        self._router = router
        self._ttl_s = ttl_s
        self._renew_until = renew_until
        self._renewed: AnyLease | None = None
        self._state = SelectionState.OPEN
        self._loss: ServeError | None = None

    @property
    @abstractmethod
    def replica(self) -> Replica:
        """Who promised, and runs what is dispatched, with revision and epoch; of a gang, its leader."""

    @property
    def upstream(self) -> Upstream | None:
        """The connection to the one replica that has promised; None for a gang."""
        return None

    @property
    def key(self) -> DeploymentKey:
        """The deployment."""
        return self.replica.key

    @property
    def replica_id(self) -> ReplicaId:
        """The replica's id; of a gang, its leader's."""
        return self.replica.replica_id

    @property
    def lease(self) -> AnyLease:
        """The promise as it was granted or renewed last; ``expires_at`` is in seconds since the Unix epoch."""
        return self._renewed or self._held.lease

    @property
    def granted_s(self) -> float:
        """The time to live that was granted first."""
        return self._held.ttl_s

    @property
    def state(self) -> SelectionState:
        """What became of it so far."""
        return self._state

    def take(self) -> str:
        """The token, for its one dispatch: from now on this selection is used up.

        Raises:
            SlotConsumedError: It was dispatched, turned into a ticket, or released before.
            SlotExpiredError, ReplicaUnavailableError: The promise was lost meanwhile.
        """
        self._use(SelectionState.DISPATCHED)
        return self._held.token

    async def ticket(self) -> Ticket:
        """Turns the promise into a ticket, which outlives this process and may be dispatched by any other.

        Raises:
            SlotConsumedError: It was dispatched, turned into a ticket, or released before.
            SlotError, ReplicaUnavailableError: The promise was lost meanwhile.
        """
        self._use(SelectionState.DETACHED)
        try:
            lease = self._renewed = await self._router.renew(self._held.token, ttl_s=self._ttl_s, detach=True)
        except BaseException:
            # Nobody has a ticket, so leaving the block is to give the promise back.
            self._state, self._held.spent = SelectionState.RELEASED, False
            raise
        return Ticket(
            application=self.replica.key.application,
            deployment=self.replica.key.deployment,
            replica_id=self.replica_id,
            address=self.replica.address,
            slot_token=self._held.token,
            slots=lease.slots,
            expire_time=lease.expires_at,
        )

    def leave(self) -> None:
        """The block is over: what was not used is released."""
        if self._state is SelectionState.OPEN:
            self._state = SelectionState.RELEASED

    async def keep(self) -> None:
        """Renews the lease now, and then at half its time, until the selection is used or the caller's deadline is over."""
        while self._is_to_be_kept():
            try:
                self._renewed = await self._router.renew(self._held.token, ttl_s=self._ttl_s)
            except ServeError as error:
                self._lose(error)
            await asyncio.sleep(self.lease.ttl_s / 2)

    def _is_to_be_kept(self) -> bool:
        if self._state is not SelectionState.OPEN:
            return False
        return self._renew_until is None or monotonic() < self._renew_until

    def _lose(self, error: ServeError) -> None:
        if self._state is SelectionState.OPEN:
            self._state, self._loss = SelectionState.LOST, error
            self._held.spend()

    def _use(self, state: SelectionState) -> None:
        if self._loss is not None:
            raise self._loss
        if self._state is not SelectionState.OPEN:
            raise SlotConsumedError(
                f"this selection of replica {self.replica_id} was {self._state.value} before: "
                "it is good for one request, choose again",
                details={"replicaId": self.replica_id, "state": self._state.value},
            )
        self._state = state
        self._held.spend()


class ReplicaSelection(Selection):
    """A chosen replica and its promise. Made by ``choose_replica``."""

    __slots__ = ()

    _held: Held

    @property
    def upstream(self) -> Upstream:
        """The connection to it."""
        return self._held.upstream

    @property
    def replica(self) -> Replica:
        """Who promised, with revision and epoch."""
        return self._held.replica

    @property
    def address(self) -> str:
        """``host:port`` of the replica's gRPC server."""
        return self.replica.address

    @property
    def node_id(self) -> NodeId:
        """The node it runs on."""
        return self.replica.node_id

    @property
    def zone(self) -> str:
        """The node's zone; empty if it has none."""
        return self.replica.zone

    @property
    def gang(self) -> Gang:
        """Its place in its gang."""
        return self.replica.gang

    @property
    def metadata(self) -> Mapping[str, str]:
        """The user's metadata of the deployment and of this replica."""
        return self.replica.metadata


class GangSelection(Selection):
    """A chosen gang and the promise of every member. Made by ``choose_gang``."""

    __slots__ = ("_members",)

    def __init__(self, held: HeldGang, router: Router, *, ttl_s: float | None, renew_until: float | None) -> None:
        super().__init__(held, router, ttl_s=ttl_s, renew_until=renew_until)
        self._members = held.reservation.members

    @property
    def members(self) -> tuple[Replica, ...]:
        """Who promised, by rank: the leader first. Each tells its rank, role and epoch in ``gang``."""
        return self._members

    @property
    def replica(self) -> Replica:
        """The leader, which runs what is dispatched."""
        return self._members[0]

    @property
    def gang_id(self) -> GangId:
        """The gang's id."""
        return self.replica.gang.gang_id

    @property
    def epoch(self) -> int:
        """The gang's epoch: it is raised whenever a member is replaced."""
        return self.replica.gang.epoch
