"""Judges actors at rest: those that are wanted serve, and nothing is left of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serve_core.controller.blobs import part_keys
from serve_core.model.actor import ActorKey, ActorOnFailure, ActorSpec
from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.actor_keys import actor_key, actor_spec
from serve_core.plan.records import DeploymentRecord, GangRecord
from tests.simulation.actors import is_degraded
from tests.simulation.line import may_take_room

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


def actors_unrest(cluster: Cluster, record: DeploymentRecord) -> str:
    """What is not as it should be with the actors of a deployment; empty if all is."""
    wanted = _wanted(cluster, record)
    gangs = {gang.actor: gang for gang in cluster.store.records.actor_gangs_of(record.key) if gang.actor is not None}
    if len(gangs) != len(cluster.store.records.actor_gangs_of(record.key)):
        return f"an actor of {record.key} has two lives"
    if left := sorted({*gangs, *(actor.key for actor in record.actors)} - {*wanted}):
        return f"{left} of {record.key} are left, and nothing needs them"
    for key, (spec, actor) in wanted.items():
        if wrong := _not_as_wanted(cluster, record, key, actor_spec(spec, actor), gangs.get(key)):
            return wrong
    return _directories(cluster, record, gangs) or _outdated(cluster, record, gangs)


def waits_for_actors(cluster: Cluster, record: DeploymentRecord) -> bool:
    """Whether a deployment is not whole as there is no room, or not yet, for an actor that it needs first."""
    kept = {actor.key: actor for actor in record.actors}
    spec = record.target_spec
    for actor in spec.actors:
        known = kept.get(actor_key(spec, record.target, actor))
        awaited = known is None or not known.first_ready_at
        if awaited and not may_take_room(cluster, record, actor_spec(spec, actor)):
            return True
    return False


def lost_states(cluster: Cluster) -> str:
    """Stored bytes that no record tells of, and those that a record tells of and are not there."""
    told = {
        part
        for record in cluster.store.records.deployments.values()
        for actor in record.actors
        if actor.snapshot is not None
        for part in part_keys(record.key, actor.key, actor.snapshot)
    }
    wrong = sorted(told ^ set(cluster.store.blobs))
    return f"the states {wrong} are not told of, or not there" if wrong else ""


def _wanted(cluster: Cluster, record: DeploymentRecord) -> dict[ActorKey, tuple[DeploymentSpec, ActorSpec]]:
    revisions = [gang.revision for gang in cluster.store.records.gangs_of(record.key)]
    if not record.deleting:
        revisions += [record.target, *([record.last_good] if record.last_good is not None else [])]
    return {
        actor_key(kept.spec, kept.revision, actor): (kept.spec, actor)
        for kept in record.revisions
        if kept.revision in revisions
        for actor in kept.spec.actors
    }


def _not_as_wanted(
    cluster: Cluster, record: DeploymentRecord, key: ActorKey, spec: DeploymentSpec, gang: GangRecord | None
) -> str:
    known = record.actor(key)
    if gang is not None:
        return "" if gang.phase is ReplicaPhase.READY else f"actor {key.name} of {record.key} is {gang.phase.name}"
    if known is not None and known.given_up is not None:
        return "" if is_degraded(record) else f"actor {key.name} of {record.key} was given up in silence"
    if record.terminal is not None or not may_take_room(cluster, record, spec):
        return ""
    return f"actor {key.name} of {record.key} does not run"


def _directories(cluster: Cluster, record: DeploymentRecord, gangs: dict[ActorKey, GangRecord]) -> str:
    """Whether every replica knows where its actors are."""
    for replicas in cluster.store.records.gangs_of(record.key):
        kept = record.revision(replicas.revision)
        for actor in kept.spec.actors if kept is not None else ():
            gang = gangs.get(actor_key(kept.spec, kept.revision, actor)) if kept is not None else None
            process = cluster.backend.process_of(gang.members[0].replica_id) if gang is not None else None
            where = process.address if process is not None else ""
            for member in replicas.members:
                replica = cluster.backend.process_of(member.replica_id)
                told = replica.directory.known.get(actor.name) if replica is not None else None
                if told is None or told.address != where or (gang and told.incarnation != gang.incarnation):
                    return f"{member.replica_id} is told of {told}, and actor {actor.name} is at '{where}'"
    return ""


def _outdated(cluster: Cluster, record: DeploymentRecord, gangs: dict[ActorKey, GangRecord]) -> str:
    """Whether replicas are from before an actor lost its state, and are to be replaced for that."""
    spec = record.target_spec
    renewing = [actor for actor in spec.actors if actor.on_failure is ActorOnFailure.RESTART_REPLICAS]
    for actor in renewing:
        key = actor_key(spec, record.target, actor)
        known, gang = record.actor(key), gangs.get(key)
        if known is None or gang is None or not known.restarts or record.terminal is not None:
            continue
        for replicas in cluster.store.records.gangs_of(record.key):
            older = replicas.revision == record.target and replicas.created_at < gang.created_at
            if older and may_take_room(cluster, record, spec):
                return f"{replicas.gang_id} is older than what actor {actor.name} knows"
    return ""
