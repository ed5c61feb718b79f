"""What the controller persists: what is wanted, and what it intends. Never what can be observed.

Times are in seconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_core.model.actor import ActorKey
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, gang_of
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.model.status import Condition
from serve_core.plan.actor_keys import actor_key, actor_keys, actor_spec
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.persistent import GroupedMap, PersistentMap
from serve_core.plan.record_parts import Offer, RolloutRecord, VacantPlace, WaitRecord
from serve_core.plan.whole import gangs_for

REVISIONS_MAX = 10
"""Revisions of a deployment that are kept to go back to."""

FAILURES_MAX = 10
"""Failures of a deployment that are kept for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """One life of a store. ``epoch`` names it; ``table_version`` is at least the newest that any router was given."""

    epoch: str
    table_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord:
    """An application as it is wanted. ``generation`` is raised by every change that an operator makes to it."""

    name: str
    ingress: str
    generation: int
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRecord:
    """What gangs of this revision run. The part of ``spec`` that changes in place is the newest."""

    revision: RevisionId
    spec: DeploymentSpec
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """A deployment as it is wanted, and what its planner must remember across a restart.

    Attributes:
        key: Which deployment.
        generation: The application's generation that changed it last.
        observed_generation: The last generation that was planned for.
        target: The revision that is wanted; always one of ``revisions``.
        last_good: The revision that last ran whole; None before the first one did. It serves while the target comes
            up, and stays when the target fails.
        num_replicas: Replicas wanted.
        scaled_for: Why that many, if it was decided by what is asked of the deployment; empty if an operator said so.
        revisions: What can be run, newest first.
        paused: Holds a change of revision where it is.
        deleting: Drains everything, then forgets.
        start_failures: Starts of the target revision that failed in a row.
        crashes: Gangs in a row that ended soon after they were ready, or found no place.
        crashed_at: When the last of those did.
        retry_at: No gang of the target is created before this.
        good_retry_at: The same of the last good revision, while another is the target.
        impaired: Whether a gang that served was lost, and the number wanted was not reached again since.
        terminal: Why the target revision was given up, if it was.
        failures: What went wrong last, newest first.
        conditions: Summaries, with the time at which each last changed.
        offer: What its replicas offer; None before one was ready.
        rollout: The newest change of revision; None before the first plan.
        observed_replicas: The ``num_replicas`` that was planned for last; None before the first plan.
        unproven: Whether ``last_good`` is only so because no replica was wanted: it has never run.
        vacant_places: Each place whose gang failed and was not replaced yet.
        given_up: How many places are not filled any more, as too many gangs in a row were lost in them.
        given_up_for: Why the last of those was given up.
        waiting: Its place among those that wait for room that others hold; None if it does not.
        actors: Its actors, of every revision that may run.
    """

    key: DeploymentKey
    generation: int
    observed_generation: int = 0
    target: RevisionId
    last_good: RevisionId | None = None
    num_replicas: int
    scaled_for: str = ""
    revisions: tuple[RevisionRecord, ...]
    paused: bool = False
    deleting: bool = False
    start_failures: int = 0
    crashes: int = 0
    crashed_at: float = 0.0
    retry_at: float = 0.0
    good_retry_at: float = 0.0
    impaired: bool = False
    terminal: Failure | None = None
    failures: tuple[Failure, ...] = ()
    conditions: tuple[Condition, ...] = ()
    offer: Offer | None = None
    rollout: RolloutRecord | None = None
    observed_replicas: int | None = None
    unproven: bool = False
    vacant_places: tuple[VacantPlace, ...] = ()
    given_up: int = 0
    given_up_for: Failure | None = None
    waiting: WaitRecord | None = None
    actors: tuple[ActorRecord, ...] = ()

    @property
    def waiting_since(self) -> float:
        """Since when it waits for room that others hold; 0 if it does not."""
        return self.waiting.since if self.waiting is not None else 0.0

    def revision(self, revision: RevisionId) -> RevisionRecord | None:
        """The kept revision of this id, or None."""
        for kept in self.revisions:
            if kept.revision == revision:
                return kept
        return None

    @property
    def wanted(self) -> int:
        """Replicas in as many whole gangs of the target as make ``num_replicas``: the same, but after a roll back to a
        revision of another size of gangs."""
        size = self.target_spec.gang.size
        return gangs_for(self.num_replicas, size=size) * size

    def spec_of(self, gang: GangRecord) -> DeploymentSpec:
        """What a gang runs; the target's spec if its revision is not kept any more."""
        kept = self.revision(gang.revision)
        spec = kept.spec if kept is not None else self.target_spec
        return spec if gang.actor is None else self._actor_spec(gang.actor, spec)

    def _actor_spec(self, key: ActorKey, spec: DeploymentSpec) -> DeploymentSpec:
        """What the process of an actor runs: by the newest revision that wants it, as part of that changes in place."""
        for kept in self.revisions:
            for actor in kept.spec.actors:
                if actor_key(kept.spec, kept.revision, actor) == key:
                    return actor_spec(kept.spec, actor)
        return spec

    @property
    def has_given_up(self) -> bool:
        """Whether something is not tried any more until an operator acts."""
        if self.terminal is not None or self.given_up:
            return True
        return any(actor.given_up is not None for actor in self.actors)

    def actor(self, key: ActorKey) -> ActorRecord | None:
        """The record of an actor, or None if nothing may run that wants it."""
        for actor in self.actors:
            if actor.key == key:
                return actor
        return None

    def actor_keys(self, revision: RevisionId | None) -> Sequence[ActorKey]:
        """The actors of a revision, in the order of its description; none if it is not kept."""
        kept = self.revision(revision) if revision is not None else None
        return actor_keys(kept.spec, kept.revision) if kept is not None else ()

    def with_actor(self, actor: ActorRecord) -> DeploymentRecord:
        """The record with an actor's new record, or one more."""
        if self.actor(actor.key) == actor:
            return self
        others = [one for one in self.actors if one.key != actor.key]
        return replace(self, actors=tuple(sorted((*others, actor), key=lambda one: one.key)))

    @property
    def target_spec(self) -> DeploymentSpec:
        """What the target revision runs."""
        return next(kept.spec for kept in self.revisions if kept.revision == self.target)


@dataclass(frozen=True, slots=True)
class GpuShare:
    """A part of one GPU of a node: all of it (1.0) or a fraction."""

    index: int
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one member holds on its node."""

    node_id: NodeId
    resources: Resources
    gpus: tuple[GpuShare, ...] = ()

    @property
    def gpu_indices(self) -> tuple[int, ...]:
        """The GPUs that the member may see, for ``CUDA_VISIBLE_DEVICES``."""
        return tuple(share.index for share in self.gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a replica listens, and the metadata that it added to its deployment's."""

    address: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """One replica of a gang. ``epoch`` is raised at each start under the same id.

    ``endpoint`` is what it said of itself when it served last: routers are told by it until it has attached to a new
    controller. ``child_bundles`` are held on the same node, for processes of its own.
    """

    replica_id: ReplicaId
    rank: int
    epoch: int = 1
    phase: ReplicaPhase
    phase_since: float
    bundle: Bundle
    child_bundles: tuple[Bundle, ...] = ()
    endpoint: Endpoint | None = None

    @property
    def all_bundles(self) -> tuple[Bundle, ...]:
        """All that it holds: its own bundle first, then those of its children."""
        return (self.bundle, *self.child_bundles)

    @property
    def node_id(self) -> NodeId:
        """The node it is placed on."""
        return self.bundle.node_id


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRecord:
    """Replicas that are placed, started, drained and replaced together; one, unless configured otherwise.

    The members are in the phase of their gang, but for those that are ready before their gang is, or still are while others
    are started again. ``failure`` is why the gang ends, if it failed. A gang of one may run a deployment's actor instead: then
    it takes no calls from routers, and counts in nothing that counts replicas.

    Attributes:
        in_rotation_since: Since when every member has been in rotation without a break; 0 if one is not.
        out_of_rotation: Why one is not though the gang is READY; empty if all are.
        restarts: How often gangs were lost in its place, or members of it started again.
        restarts_in_a_row: How many of those were without a calm time between.
        repaired: Why members are started again while the others stay; None if none are.
        actor: Which actor it runs; None if it serves.
        incarnation: Which life of that actor it is.
        restore: Whether that begins from the stored state.
    """

    gang_id: GangId
    key: DeploymentKey
    revision: RevisionId
    phase: ReplicaPhase
    phase_since: float
    created_at: float
    epoch: int = 1
    members: tuple[MemberRecord, ...]
    failure: Failure | None = None
    in_rotation_since: float = 0.0
    out_of_rotation: str = ""
    restarts: int = 0
    restarts_in_a_row: int = 0
    repaired: Failure | None = None
    actor: ActorKey | None = None
    incarnation: int = 0
    restore: bool = False

    @property
    def is_repaired(self) -> bool:
        """Whether it comes up again while some of its members stayed, who may have work."""
        return self.repaired is not None

    @property
    def size(self) -> int:
        """How many members it has."""
        return len(self.members)

    @property
    def serves(self) -> bool:
        """Whether it takes requests, by all that was planned for."""
        return self.phase is ReplicaPhase.READY and not self.out_of_rotation

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """What its placement holds, in this order: of each member, by rank, its own bundle and then its children's."""
        return tuple(bundle for member in self.members for bundle in member.all_bundles)

    def bundle_index(self, rank: int) -> int:
        """Which of its placement's bundles is the own one of the member of this rank."""
        return sum(len(member.all_bundles) for member in self.members[:rank])


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node that is being drained: nothing new is placed on it, and what is there moves elsewhere.

    ``deadline`` is when what is still there goes without a replacement; None: never.
    """

    node_id: NodeId
    draining_since: float
    deadline: float | None = None


def replicas_in(gangs: Iterable[GangRecord]) -> int:
    """How many replicas are in these gangs."""
    return sum(gang.size for gang in gangs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Everything that is persisted, as one value. ``nodes`` are those that are being drained."""

    applications: Mapping[str, ApplicationRecord] = field(default_factory=dict)
    deployments: Mapping[DeploymentKey, DeploymentRecord] = field(default_factory=dict)
    gangs: Mapping[GangId, GangRecord] = field(default_factory=dict)
    nodes: Mapping[NodeId, NodeRecord] = field(default_factory=dict)

    def gangs_of(self, key: DeploymentKey) -> tuple[GangRecord, ...]:
        """The gangs of a deployment's replicas, oldest first."""
        return tuple(gang for gang in self.everything_of(key) if gang.actor is None)

    def actor_gangs_of(self, key: DeploymentKey) -> tuple[GangRecord, ...]:
        """The processes of a deployment's actors, oldest first."""
        return tuple(gang for gang in self.everything_of(key) if gang.actor is not None)

    def everything_of(self, key: DeploymentKey) -> tuple[GangRecord, ...]:
        """The gangs of a deployment's replicas and of its actors, oldest first."""
        if isinstance(self.gangs, GroupedMap):
            mine = list(self.gangs.group(key).values())
        else:
            mine = [gang for gang in self.gangs.values() if gang.key == key]
        return tuple(sorted(mine, key=lambda gang: (gang.created_at, gang.gang_id)))

    def deployments_of(self, application: str) -> tuple[DeploymentRecord, ...]:
        """The deployments of an application, by name."""
        if isinstance(self.deployments, GroupedMap):
            mine = list(self.deployments.group(application).values())
        else:
            mine = [record for key, record in self.deployments.items() if key.application == application]
        return tuple(sorted(mine, key=lambda record: record.key))

    def owner_of(self, replica_id: ReplicaId) -> tuple[GangRecord, MemberRecord] | None:
        """The member of this id, and its gang; None if nobody has a record of it."""
        gang = self.gangs.get(gang_of(replica_id))
        if gang is None:
            return None
        return next(((gang, member) for member in gang.members if member.replica_id == replica_id), None)

    def indexed(self) -> Records:
        """The same records, so kept that a change and a look at one deployment cost nothing for the others."""
        return Records(
            applications=PersistentMap(self.applications),
            deployments=GroupedMap(lambda record: record.key.application, self.deployments),
            gangs=GroupedMap(lambda gang: gang.key, self.gangs),
            nodes=PersistentMap(self.nodes),
        )
