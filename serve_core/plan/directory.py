"""What replicas are told of their deployment's actors: where each is, and which life of it that is."""

from __future__ import annotations

from serve_core.model.actor import NOBODY, ActorEndpoint, ActorKey
from serve_core.model.ids import RevisionId, replica_id
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actions import SendActors
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.records import DeploymentRecord

_PHASES = frozenset({ReplicaPhase.STARTING, ReplicaPhase.READY, ReplicaPhase.DRAINING})


def directory(record: DeploymentRecord, revision: RevisionId) -> tuple[ActorEndpoint, ...]:
    """The actors of a revision, in the order of its description."""
    return tuple(_endpoint(record, key) for key in record.actor_keys(revision))


def tell_of_actors(draft: Draft) -> None:
    """Tells every attached replica that does not know of its actors as they are now, be it one that finishes."""
    told = {revision: directory(draft.deployment, revision) for revision in _revisions(draft)}
    for gang in in_order(draft.gangs.values()):
        if gang.phase not in _PHASES:
            continue
        for member in gang.members:
            seen = draft.observed.replica(member.replica_id, epoch=member.epoch)
            if seen.attached and seen.actors != told[gang.revision]:
                draft.actions.append(
                    SendActors(
                        gang_id=gang.gang_id,
                        replica_id=member.replica_id,
                        epoch=member.epoch,
                        actors=told[gang.revision],
                    )
                )


def _revisions(draft: Draft) -> dict[RevisionId, None]:
    return dict.fromkeys(gang.revision for gang in draft.gangs.values())


def _endpoint(record: DeploymentRecord, key: ActorKey) -> ActorEndpoint:
    actor = record.actor(key)
    if actor is None:
        return ActorEndpoint(name=key.name, incarnation=1)
    return ActorEndpoint(
        name=key.name,
        incarnation=actor.next_incarnation,
        address=actor.address,
        failure=actor.failure,
        restored=actor.restored and actor.gang_id is not None,
        given_up=actor.given_up.message if actor.given_up is not None else "",
        replica_id=replica_id(actor.gang_id, 0) if actor.address and actor.gang_id is not None else NOBODY,
    )
