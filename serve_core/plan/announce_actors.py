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


def actor_life(say: Say, before: GangRecord | None, after: GangRecord, *, name: str) -> Iterator[Event]:
    """What became of the process of an actor in a plan."""
    which = f"incarnation {after.incarnation} of actor {name}"
    if before is None:
        begins = ", from the last snapshot" if after.restore else ""
        yield say("ActorCreated", f"{which}, on {after.members[0].node_id}{begins}", subject=after.gang_id)
        return
    if after.failure is not None and before.failure is None:
        served = before.phase is ReplicaPhase.READY
        reason = "ActorLost" if served else "ActorFailed"
        yield say(reason, f"{which}: {after.failure.message}", subject=after.gang_id, warning=True)
    if after.phase is not before.phase:
        yield from _moved(say, before, after, which)


def actors_given_up(say: Say, before: DeploymentRecord, after: DeploymentRecord) -> Iterator[Event]:
    """Which actors are not begun any more."""
    for actor in after.actors:
        known = before.actor(actor.key)
        if actor.given_up is not None and (known is None or known.given_up is None):
            yield say("ActorGivenUp", actor.given_up.message, warning=True)


def _moved(say: Say, before: GangRecord, after: GangRecord, which: str) -> Iterator[Event]:
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
        why = "it is ill" if after.failure is not None else "nothing needs it any more"
        yield say("ActorDraining", f"{which}: {why}", subject=after.gang_id)
    elif after.phase is ReplicaPhase.GONE:
        yield say("ActorGone", f"{which}: its process has ended, and what it held is free", subject=after.gang_id)
