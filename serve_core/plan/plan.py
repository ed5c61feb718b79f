"""A plan, and the draft of one that the steps of planning work on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from serve_core.model.event import Event
from serve_core.model.ids import GangId, NodeId, ReplicaId, RevisionId, RouterId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actions import Action
from serve_core.plan.lifecycle import LIVE, Trigger, move, repair
from serve_core.plan.observed import Observed
from serve_core.plan.placement import Capacity, Shortage
from serve_core.plan.policy import Policy
from serve_core.plan.records import DeploymentRecord, GangRecord, NodeRecord


@dataclass(frozen=True, slots=True)
class Awaited:
    """The table that tells of a replica's coming or going, and the live routers that do not route by it yet."""

    version: int
    routers: tuple[RouterId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What routers know.

    Attributes:
        acknowledged: Replicas of the table that every live router routes by.
        withdrawn: Replicas that no router routes to any more.
        wake_at: When a router's lease ends, which may change the above; None if none does.
        awaited: Whose acknowledgement of which table is missing, for replicas that are neither of the above.
    """

    acknowledged: frozenset[ReplicaId] = frozenset()
    withdrawn: frozenset[ReplicaId] = frozenset()
    wake_at: float | None = None
    awaited: Mapping[ReplicaId, Awaited] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to save, and only then what to do.

    Attributes:
        saved_deployment: The deployment's new record, if it changed.
        saved_gangs: New and changed gangs.
        deleted_gangs: Gangs that are gone.
        forget: Whether the deployment's record is to be deleted, too.
        actions: What to do once all of that is saved, in this order.
        wake_at: When to plan again even if nothing happens; None if there is nothing to wait for.
        blocked: Why a gang could not be placed, if so. Plan again when any placement is freed or a node appears.
        reasons: Why, in one line each, for the log.
        events: What happened, for people; saved in the same transaction. Each is told once, as it follows from how the
            records change.
        frees_claim: Whether it has waited for room and does not any more, or is at the end of those that do: others may use
            what was held back for it.
        frees_starts: Whether a start has ended, so that one that waits for its turn may have it: plan what is blocked.
    """

    saved_deployment: DeploymentRecord | None = None
    saved_gangs: tuple[GangRecord, ...] = ()
    deleted_gangs: tuple[GangId, ...] = ()
    forget: bool = False
    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    blocked: str = ""
    reasons: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    frees_claim: bool = False
    frees_starts: bool = False

    @property
    def changes_records(self) -> bool:
        """Whether anything is to be saved or deleted."""
        return bool(self.saved_deployment or self.saved_gangs or self.deleted_gangs or self.forget)


@dataclass(frozen=True, slots=True)
class Settled:
    """Gangs that a plan only counts: they serve the target revision, in rotation, and all about them is as recorded.

    Attributes:
        count: How many there are.
        replicas: How many replicas they are.
        wake_at: No silence of theirs means anything before this; None if there are none.
    """

    count: int = 0
    replicas: int = 0
    wake_at: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A gang that failed in this plan, or lost members that are replaced, as it was; and in which phase."""

    gang: GangRecord
    phase: ReplicaPhase
    trigger: Trigger
    failure: Failure


@dataclass(slots=True, kw_only=True)
class Draft:
    """A plan in the making. Each step changes it; nothing else is changed.

    ``gangs`` are those of replicas, ``actors`` those that run actors, and so with ``ended`` and ``actors_ended``. ``shortages``
    hold up what is to start; ``stranded`` says which actors stay where they are not to be, for want of room elsewhere.
    """

    deployment: DeploymentRecord
    gangs: dict[GangId, GangRecord]
    actors: dict[GangId, GangRecord]
    observed: Observed
    capacity: Capacity
    table: TableFacts
    now: float
    ids: Iterator[str]
    unit_random: float
    policy: Policy
    settled: Settled = Settled()
    draining: Mapping[NodeId, NodeRecord] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    actors_ended: list[Ended] = field(default_factory=list)
    shortages: dict[RevisionId, Shortage] = field(default_factory=dict)
    stranded: list[str] = field(default_factory=list)
    created: int = 0

    def wake_at(self, time: float) -> None:
        """Plans again at this time."""
        self.wakes.append(time)

    def save(self, gang: GangRecord) -> None:
        """Takes a gang's new record."""
        kept = self.gangs if gang.actor is None else self.actors
        kept[gang.gang_id] = gang

    def move(self, gang: GangRecord, trigger: Trigger, *, failure: Failure | None = None) -> GangRecord:
        """Moves a gang, and says so."""
        moved = move(gang, trigger, now=self.now, failure=failure)
        cause = f": {failure.message}" if failure is not None else ""
        self.reasons.append(f"{gang.gang_id} {gang.phase.name} -> {moved.phase.name}: {trigger.value}{cause}")
        self.save(moved)
        return moved

    def repair(
        self, gang: GangRecord, replica_ids: Collection[ReplicaId], failure: Failure, *, in_a_row: int
    ) -> GangRecord:
        """Starts members of a gang again while the others stay, and notes it for the accounts."""
        self.ended.append(Ended(gang, gang.phase, Trigger.REPLACED, failure))
        repaired = repair(gang, replica_ids, now=self.now, failure=failure, in_a_row=in_a_row)
        self.reasons.append(f"{gang.gang_id} epoch {repaired.epoch}: {Trigger.REPLACED.value}: {failure.message}")
        self.save(repaired)
        return repaired

    def fail(self, gang: GangRecord, trigger: Trigger, failure: Failure) -> GangRecord:
        """Moves a gang that failed, and notes it for the accounts."""
        ended = self.ended if gang.actor is None else self.actors_ended
        ended.append(Ended(gang, gang.phase, trigger, failure))
        return self.move(gang, trigger, failure=failure)

    def spec(self, gang: GangRecord) -> DeploymentSpec:
        """What the gang runs; the target's spec if its revision is not kept any more."""
        return self.deployment.spec_of(gang)

    def live(self, revision: RevisionId) -> list[GangRecord]:
        """The gangs of a revision that serve or are to serve, oldest first."""
        return in_order(gang for gang in self.gangs.values() if gang.revision == revision and gang.phase in LIVE)


_AGE = attrgetter("created_at", "gang_id")


def in_order(gangs: Iterable[GangRecord]) -> list[GangRecord]:
    """Oldest first."""
    return sorted(gangs, key=_AGE)
