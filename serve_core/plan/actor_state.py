"""Who may store and load the state of an actor: only its live incarnation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from serve_core.errors import ActorFencedError, ActorUnavailableError, ActorUnknownError, DeploymentUnknownError
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actor_records import ActorRecord, SnapshotRecord
from serve_core.plan.deploy import Change
from serve_core.plan.records import DeploymentRecord, GangRecord, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who says that it is an actor: a process, and which life of the actor it runs."""

    replica_id: ReplicaId
    epoch: int
    incarnation: int


class Life(NamedTuple):
    """The live incarnation of an actor."""

    deployment: DeploymentRecord
    gang: GangRecord
    actor: ActorRecord


def life_of(records: Records, caller: Caller) -> Life:
    """The life that a caller runs.

    Raises:
        ActorFencedError: It is not the live one: it was replaced, or is being ended.
    """
    owner = records.owner_of(caller.replica_id)
    if owner is None:
        raise _fenced(caller, "it was replaced, or its deployment was deleted")
    gang, member = owner
    deployment = records.deployments[gang.key]
    actor = deployment.actor(gang.actor) if gang.actor is not None else None
    if actor is None:
        raise _fenced(caller, "it is no actor")
    if (member.epoch, gang.incarnation) != (caller.epoch, caller.incarnation) or actor.incarnation != gang.incarnation:
        raise _fenced(caller, f"incarnation {actor.incarnation} has taken its place")
    if gang.phase >= ReplicaPhase.STOPPING:
        raise _fenced(caller, "it was given up, and is being ended")
    return Life(deployment, gang, actor)


def store_state(records: Records, caller: Caller, snapshot: SnapshotRecord) -> Change:
    """Takes a state for the one that the actor's next life may begin from. Nothing changes if there is a newer one.

    Raises:
        ActorFencedError: The caller is not the live incarnation.
    """
    life = life_of(records, caller)
    application = records.applications[life.gang.key.application]
    stored = life.actor.snapshot
    if stored is not None and stored.is_at_least(snapshot.incarnation, snapshot.sequence):
        return Change(generation=application.generation)
    deployment = life.deployment.with_actor(replace(life.actor, snapshot=snapshot))
    return Change(generation=application.generation, saved_deployments=(deployment,))


def serving_life(records: Records, key: DeploymentKey, name: str) -> Life:
    """The life of an actor of the target revision, which can be asked for its state.

    Raises:
        ActorUnavailableError: It does not serve now.
        ActorUnknownError: The target revision has no actor of this name.
        DeploymentUnknownError: There is no such deployment.
    """
    deployment = records.deployments.get(key)
    if deployment is None:
        known = ", ".join(str(one) for one in sorted(records.deployments)) or "none"
        details = {"application": key.application, "deployment": key.deployment}
        raise DeploymentUnknownError(f"there is no deployment {key}; there is: {known}", details=details)
    keys = deployment.actor_keys(deployment.target)
    wanted = next((one for one in keys if one.name == name), None)
    details = {"application": key.application, "deployment": key.deployment, "actor": name}
    if wanted is None:
        known = ", ".join(one.name for one in keys) or "none"
        raise ActorUnknownError(f"{key} has no actor '{name}'; it has: {known}", details=details)
    actor = deployment.actor(wanted)
    gang = records.gangs.get(actor.gang_id) if actor is not None and actor.gang_id is not None else None
    if actor is None or gang is None or gang.phase is not ReplicaPhase.READY:
        raise ActorUnavailableError(
            f"actor '{name}' of {key} does not serve now; see 'serve-core status'", details=details
        )
    return Life(deployment, gang, actor)


def _fenced(caller: Caller, why: str) -> ActorFencedError:
    return ActorFencedError(
        f"{caller.replica_id} (epoch {caller.epoch}, incarnation {caller.incarnation}) is not the live actor: {why}",
        details={
            "replicaId": caller.replica_id,
            "epoch": str(caller.epoch),
            "incarnation": str(caller.incarnation),
        },
    )
