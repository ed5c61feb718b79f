"""What operators want to know of actors, as events: no life of one ends in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from serve_core.model.event import Event
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.records import DeploymentRecord, GangRecord


class Say(Protocol):
    """Makes an event about a deployment, or about one of its gangs."""

    def __call__(self, reason: str, message: str, *, subject: str = "", warning: bool = False) -> Event: ...


def actor_life(say: Say, before: GangRecord | None, after: GangRecord, *, record: DeploymentRecord) -> Iterator[Event]:
    """What became of the process of an actor in a plan; ``record`` is the deployment's, after it."""
    if after.actor is None:
        return
    which = f"incarnation {after.incarnation} of actor {after.actor.name}"
    if before is None:
        begins = ", from the last snapshot" if after.restore else ""
        yield say("ActorCreated", f"{which}, on {after.members[0].node_id}{begins}", subject=after.gang_id)
        return
    if after.failure is not None and before.failure is None:
        served = before.phase is ReplicaPhase.READY
        reason = "ActorLost" if served else "ActorFailed"
        yield say(reason, f"{which}: {after.failure.message}", subject=after.gang_id, warning=True)
    if after.phase is not before.phase:
        yield from _moved(say, before, after, which, why=_why_it_leaves(record, after))
    if after.phase is ReplicaPhase.READY and after.out_of_rotation != before.out_of_rotation:
        yield _suspected(say, after, which)
    if after.phase is ReplicaPhase.READY is not before.phase and _renews(record, after):
        yield say(
            "ReplicasOutdated", f"{which} lost its state: replicas from before are replaced", subject=after.gang_id
        )


def actors_given_up(say: Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    """Which actors are not begun any more."""
    for actor in after.actors:
        known = before.actor(actor.key)
        if actor.given_up is not None and (known is None or known.given_up is None):
            yield say("ActorGivenUp", actor.given_up.message, warning=True)


def _suspected(say: Say, after: GangRecord, which: str) -> Event:
    if after.out_of_rotation:
        return say("ActorSuspect", f"{which}: {after.out_of_rotation}", subject=after.gang_id, warning=True)
    return say("ActorBack", f"{which}: it is heard of again, and ready", subject=after.gang_id)


def _why_it_leaves(record: DeploymentRecord, gang: GangRecord) -> str:
    actor = record.actor(gang.actor) if gang.actor is not None else None
    if gang.failure is not None:
        return "it is ill"
    moved = actor is not None and actor.failure is not None and actor.failure.time == gang.phase_since
    return actor.failure.message if moved and actor is not None and actor.failure is not None else "nothing needs it"


def _renews(record: DeploymentRecord, gang: GangRecord) -> bool:
    actor = record.actor(gang.actor) if gang.actor is not None else None
    return actor is not None and actor.gang_id == gang.gang_id and bool(actor.renewed_at)


def _moved(say: Say, before: GangRecord, after: GangRecord, which: str, *, why: str) -> Iterator[Event]:
    if after.phase is ReplicaPhase.READY:
        begins = "from the last snapshot" if after.restore else "empty"
        took_s = after.phase_since - before.phase_since
        if after.incarnation == 1:
            yield say("ActorStarted", f"{which} serves, after {took_s:.1f} s", subject=after.gang_id)
        else:
            yield say(
                "ActorRestarted", f"{which} serves, after {took_s:.1f} s; it began {begins}", subject=after.gang_id
            )
    elif after.phase is ReplicaPhase.DRAINING:
        yield say("ActorDraining", f"{which}: {why}", subject=after.gang_id)
    elif after.phase is ReplicaPhase.GONE:
        yield say("ActorGone", f"{which}: its process has ended, and what it held is free", subject=after.gang_id)
