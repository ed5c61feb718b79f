"""Judges of deployment actors: ready before who needs them, each alive once, none ended for nothing, none lost in silence.

What is known here is what was seen to happen: which process was ready, which life was begun, what was stored. Records are
asked only for what is wanted and what they say of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from serve_core.model.actor import ActorEndpoint, ActorKey, ActorOnFailure
from serve_core.model.ids import DeploymentKey, GangId, RevisionId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ConditionType
from serve_core.plan.plan import Plan
from serve_core.plan.records import DeploymentRecord, GangRecord, Records
from tests.simulation.engine import broken

if TYPE_CHECKING:
    from tests.simulation.acting import Acting
    from tests.simulation.cluster import Cluster
    from tests.simulation.process import Process

Which = tuple[DeploymentKey, ActorKey]
State = tuple[int, int]
"""A stored state: which life gave it, as its how-manieth."""


class ActorChecks:
    """Told of what actors do, and of what is done with them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._uses: dict[tuple[DeploymentKey, RevisionId], tuple[ActorKey, ...]] = {}
        self._began: dict[Which, int] = {}
        self._serves: dict[Which, GangId | None] = {}
        self._stored: dict[Which, tuple[State, int]] = {}
        self._served: dict[GangId, None] = {}

    # What is planned.

    def planned(self, key: DeploymentKey, before: Records, planned: Plan) -> None:
        """4: what a plan makes of a deployment's actors, and of who needs them."""
        record = planned.saved_deployment or before.deployments[key]
        if not self._learn(record):
            return
        gangs = {gang.gang_id: gang for gang in before.everything_of(key)}
        gangs.update((gang.gang_id, gang) for gang in planned.saved_gangs)
        for gone in planned.deleted_gangs:
            gangs.pop(gone, None)
        wanted = self._wanted(record, gangs.values())
        for gang in planned.saved_gangs:
            known = before.gangs.get(gang.gang_id)
            if gang.actor is None:
                if known is None:
                    self._may_begin(gang)
            elif known is None:
                self._begins(gang, gangs)
            elif gang.phase is ReplicaPhase.READY:
                self._is_ready(gang, gang.actor)
            elif known.phase is ReplicaPhase.READY:
                self._ends(gang, gang.actor, before, planned, wanted)
        self._forgets(record, before.deployments[key], wanted, forget=planned.forget)
        self._is_told(record, gangs, wanted)

    def _learn(self, record: DeploymentRecord) -> bool:
        """Notes which actors each revision has; whether there are any."""
        for kept in record.revisions:
            if (record.key, kept.revision) not in self._uses:
                self._uses[record.key, kept.revision] = tuple(record.actor_keys(kept.revision))
        return bool(record.actors) or any(kept.spec.actors for kept in record.revisions)

    def _wanted(self, record: DeploymentRecord, gangs: Iterable[GangRecord]) -> dict[ActorKey, None]:
        """The actors of what is left of any revision, and of what is to serve."""
        revisions = [gang.revision for gang in gangs if gang.actor is None]
        if not record.deleting:
            revisions += [record.target, *([record.last_good] if record.last_good is not None else [])]
        return dict.fromkeys(actor for one in revisions for actor in self._uses.get((record.key, one), ()))

    def _may_begin(self, gang: GangRecord) -> None:
        for actor in self._uses[gang.key, gang.revision]:
            if (gang.key, actor) not in self._serves:
                broken(4, f"{gang.gang_id} is created, and actor {actor.name} of {gang.revision} was never ready")

    def _begins(self, gang: GangRecord, gangs: Mapping[GangId, GangRecord]) -> None:
        others = [one.gang_id for one in gangs.values() if one.actor == gang.actor and one.gang_id != gang.gang_id]
        alive = [one.process_id for one in self._lives(gang) if one.action.gang_id != gang.gang_id]
        if others or alive:
            broken(4, f"{gang.gang_id} is a life of {gang.actor}, and {others or alive} still is one")
        which = self._which(gang)
        if gang.incarnation <= self._began.get(which, 0):
            broken(4, f"{gang.gang_id} is incarnation {gang.incarnation} of {gang.actor} for the second time")
        self._began[which] = gang.incarnation

    def _is_ready(self, gang: GangRecord, actor: ActorKey) -> None:
        which = self._which(gang)
        if self._serves.get(which) == gang.gang_id:
            return
        process = self._cluster.backend.process_of(gang.members[0].replica_id)
        if process is not None and not process.was_ready:
            broken(4, f"{process.process_id} of actor {actor.name} is taken for ready, and never was")
        self._serves[which] = gang.gang_id
        self._served[gang.gang_id] = None

    def _ends(
        self,
        gang: GangRecord,
        actor: ActorKey,
        before: Records,
        planned: Plan,
        wanted: Mapping[ActorKey, None],
    ) -> None:
        self._serves[self._which(gang)] = None
        process = self._cluster.backend.process_of(gang.members[0].replica_id)
        hit = process is None or process.faults or process.ill or not process.healthy or process.leaving.begun
        drained = any(member.node_id in before.nodes for member in gang.members)
        if actor in wanted and not hit and not drained:
            broken(4, f"actor {actor.name} of {gang.key} is needed and well, and {gang.gang_id} is ended")
        if not any(event.subject == gang.gang_id for event in planned.events):
            broken(4, f"{gang.gang_id} of actor {actor.name} is ended in silence")

    def _forgets(
        self, record: DeploymentRecord, old: DeploymentRecord, wanted: Mapping[ActorKey, None], *, forget: bool
    ) -> None:
        kept = {} if forget else {actor.key: None for actor in record.actors}
        for actor in old.actors:
            if actor.key not in kept:
                if actor.key in wanted and not forget:
                    broken(4, f"actor {actor.key} of {record.key} is forgotten, and needed")
                for memory in (self._began, self._stored, self._serves):
                    memory.pop((record.key, actor.key), None)
            elif actor.key not in wanted:
                self._serves.pop((record.key, actor.key), None)

    def _is_told(
        self, record: DeploymentRecord, gangs: Mapping[GangId, GangRecord], wanted: Mapping[ActorKey, None]
    ) -> None:
        """Whoever asks is told at once that an actor is lost."""
        if record.deleting:
            return
        revisions = (record.target, *([record.last_good] if record.last_good is not None else []))
        for actor in dict.fromkeys(actor for one in revisions for actor in self._uses[record.key, one]):
            if self._serves.get((record.key, actor), "") is None and not is_degraded(record):
                broken(4, f"actor {actor.name} of {record.key} is lost, and its status does not say so")

    # What happens.

    def spawned(self, process: Process) -> None:
        """A process was started."""
        if process.acting is None:
            self._may_run(process)
            return
        others = [one.process_id for one in self._cluster.backend.processes.values() if _is_same(one, process)]
        if others:
            broken(4, f"{process.process_id} is started, and {others} run the same actor")

    def _may_run(self, process: Process) -> None:
        for actor in self._uses.get((process.key, process.action.replica.revision), ()):
            if (process.key, actor) not in self._serves:
                broken(4, f"{process.process_id} is started, and actor {actor.name} of its revision was never ready")

    def told(self, process: Process, known: Mapping[str, ActorEndpoint], actors: Iterable[ActorEndpoint]) -> None:
        """A replica learns where its actors are."""
        for actor in actors:
            before = known.get(actor.name)
            if before is not None and actor.incarnation < before.incarnation:
                broken(4, f"{process.process_id} is told of {actor}, after {before}")
            if before is not None and before.address and before.incarnation < actor.incarnation and not actor.failure:
                broken(4, f"{process.process_id} is not told why {before} is followed by {actor}")
            at = self._cluster.backend.listening(actor.address)
            if at is not None and (at.acting is None or at.acting.incarnation != actor.incarnation):
                broken(4, f"{process.process_id} is told of {actor}, and there is {at.process_id}")

    def called(self, process: Process, caller: Process) -> None:
        """An actor serves a replica: it may have been given up since the call was sent, but nobody has taken its place."""
        acting = process.acting
        assert acting is not None
        newest = self._began.get(acting.identity, 0)
        if newest > acting.incarnation:
            broken(4, f"{process.process_id} serves {caller.process_id}, and incarnation {newest} has begun")

    def killed(self, process: Process) -> None:
        """An actor's process is about to be killed: if nothing is wrong with it, it ends itself."""
        acting = process.acting
        assert acting is not None
        if process.action.gang_id not in self._served:
            return
        if process.ready or (acting.is_saving and not process.leaving.in_full):
            broken(8, f"{process.process_id} is killed, though nothing is wrong with it")

    def stored(self, acting: Acting, sequence: int, value: int) -> None:
        """A state was stored, and is about to be acknowledged."""
        which, state = acting.identity, (acting.incarnation, sequence)
        gang = self._cluster.store.records.gangs.get(acting.process.action.gang_id)
        lives = gang is not None and gang.phase < ReplicaPhase.STOPPING
        if not lives or self._began.get(which) != acting.incarnation:
            broken(4, f"the state of {acting.process.process_id} is stored, which is not the live incarnation")
        if which not in self._stored or self._stored[which][0] < state:
            self._stored[which] = state, value

    def began(self, acting: Acting) -> None:
        """A life begins from what was stored: from the newest state that was acknowledged, if its deployment wants so."""
        _, value = self._stored.get(acting.identity, ((0, 0), 0))
        wants = acting.spec.on_failure is ActorOnFailure.RESTART_FROM_SNAPSHOT
        if acting.began_from != (value if wants else 0):
            broken(4, f"{acting.process.process_id} begins from {acting.began_from}, and {value} was stored")

    def _lives(self, gang: GangRecord) -> list[Process]:
        which = self._which(gang)
        processes = self._cluster.backend.processes.values()
        return [one for one in processes if one.acting is not None and one.acting.identity == which]

    def _which(self, gang: GangRecord) -> Which:
        assert gang.actor is not None
        return gang.key, gang.actor


def is_degraded(record: DeploymentRecord) -> bool:
    """Whether a deployment says that something is wrong with it."""
    return any(one.status for one in record.conditions if one.type is ConditionType.DEGRADED)


def _is_same(one: Process, other: Process) -> bool:
    if one is other or one.acting is None or other.acting is None:
        return False
    return one.acting.identity == other.acting.identity
