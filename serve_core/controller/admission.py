"""Who may attach: plain values in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass

from serve_core.model.actor import ActorAssignment
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Gang, Replica, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.records import GangRecord, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Who the replica is, without its address, and what it runs; ``actor`` is set if that is an actor."""

    replica: Replica
    spec: DeploymentSpec
    actor: ActorAssignment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a process is disowned."""

    message: str


def admit(records: Records, replica_id: ReplicaId, epoch: int) -> Welcome | Refusal:
    """Whether a process that says it is this start of this replica is one of ours, and what it is to be."""
    owner = records.owner_of(replica_id)
    if owner is None:
        return Refusal(message=f"{replica_id} is not known here: it was replaced, or its deployment was deleted")
    gang, member = owner
    if member.epoch != epoch:
        return Refusal(message=f"epoch {epoch} of {replica_id} was replaced by epoch {member.epoch}")
    spec = records.deployments[gang.key].spec_of(gang)
    replica = Replica(
        replica_id=replica_id,
        key=gang.key,
        revision=gang.revision,
        epoch=epoch,
        address="",
        node_id=member.node_id,
        gang=Gang(
            gang_id=gang.gang_id,
            rank=member.rank,
            size=len(gang.members),
            epoch=gang.epoch,
            role=spec.gang.role(member.rank),
        ),
        metadata=spec.metadata,
    )
    return Welcome(replica=replica, spec=spec, actor=_assignment(gang))


def _assignment(gang: GangRecord) -> ActorAssignment | None:
    if gang.actor is None:
        return None
    return ActorAssignment(name=gang.actor.name, incarnation=gang.incarnation, restore=gang.restore)


def may_go_on(records: Records, replica_id: ReplicaId, epoch: int) -> bool:
    """Whether a heartbeat of this start is acknowledged: not once it was given up.

    A process that stood still takes requests again only when it is acknowledged, so one that was replaced meanwhile never does.
    """
    owner = records.owner_of(replica_id)
    if owner is None:
        return False
    gang, member = owner
    return member.epoch == epoch and gang.phase not in (ReplicaPhase.STOPPING, ReplicaPhase.GONE)
