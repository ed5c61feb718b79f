"""What is wrong with a deployment's actors, in a word and in a sentence, for people."""

from __future__ import annotations

from typing import NamedTuple

from serve_core.errors import Reason
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.records import DeploymentRecord

LOST = "ActorLost"
"""One that served has ended."""


class ActorTrouble(NamedTuple):
    """Why a deployment is not as it should be; with ``given_up``, nothing is tried any more until somebody acts."""

    reason: str
    message: str
    given_up: bool = False


def actor_trouble(record: DeploymentRecord) -> ActorTrouble | None:
    """The worst that is wrong with the actors of what is to serve, or serves; None if nothing is."""
    keys = dict.fromkeys([*record.actor_keys(record.target), *record.actor_keys(record.last_good)])
    actors = [actor for key in keys if (actor := record.actor(key)) is not None]
    troubles = [trouble for actor in actors if (trouble := _trouble(actor)) is not None]
    return min(troubles, key=lambda trouble: not trouble.given_up, default=None)


def _trouble(actor: ActorRecord) -> ActorTrouble | None:
    name = actor.key.name
    if actor.given_up is not None:
        message = f"{actor.given_up.message}; replicas run on without it, until it is deployed anew or resumed"
        return ActorTrouble(Reason.DEPLOYMENT_ACTOR_FAILED.value, message, given_up=True)
    if actor.suspicion:
        return ActorTrouble("ActorSuspect", f"incarnation {actor.incarnation} of actor {name}: {actor.suspicion}")
    if actor.failure is None:
        return None
    cause, following = actor.failure.message, actor.next_incarnation
    if actor.is_lost:
        state = "from its last snapshot" if actor.snapshot is not None and actor.restores else "empty"
        message = (
            f"incarnation {following - 1} of actor {name} has ended: {cause}; incarnation {following} begins {state}"
        )
        return ActorTrouble(LOST, message)
    if not actor.first_ready_at:
        message = f"actor {name} failed to start {actor.failures} times in a row; last: {cause}"
        return ActorTrouble("ActorStartFailing", message)
    return None
