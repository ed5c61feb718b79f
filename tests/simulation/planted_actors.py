"""Bugs of deployment actors that were put in on purpose, each as other cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serve_core.errors import ActorFencedError
from serve_core.model.event import Event
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actor_records import ActorRecord, SnapshotRecord
from serve_core.plan.actor_state import Caller, Life, life_of, store_state
from serve_core.plan.deploy import Change
from serve_core.plan.lifecycle import Trigger, move
from serve_core.plan.plan import Plan
from serve_core.plan.reconcile import plan
from serve_core.plan.records import DeploymentRecord, GangRecord, Records
from tests.simulation.cores import Cores


def starts_replicas_before_their_actors() -> Cores:
    """The gate of a new revision is open at once."""

    def hasty(deployment: DeploymentRecord, *args: Any, **named: Any) -> Plan:
        for key in deployment.actor_keys(deployment.target):
            actor = deployment.actor(key) or ActorRecord(key=key)
            deployment = deployment.with_actor(replace(actor, first_ready_at=actor.first_ready_at or 1.0))
        return plan(deployment, *args, **named)

    return Cores(plan=hasty)


def recreates_every_actor() -> Cores:
    """When one actor fails, the others begin anew with it."""

    def dies(before: GangRecord, planned: Plan) -> bool:
        return before.phase is ReplicaPhase.READY and any(
            gang.gang_id == before.gang_id and gang.failure is not None for gang in planned.saved_gangs
        )

    return _ends_actors(lambda gang, gangs, planned, _: any(dies(one, planned) for one in gangs if one.actor))


def stops_old_actors_early() -> Cores:
    """As soon as another revision is wanted, the actors that it does not have go."""

    def is_old(gang: GangRecord, _gangs: Any, _planned: Plan, deployment: DeploymentRecord) -> bool:
        return gang.actor not in deployment.actor_keys(deployment.target)

    return _ends_actors(is_old)


def _ends_actors(chosen: Callable[[GangRecord, list[GangRecord], Plan, DeploymentRecord], bool]) -> Cores:
    def careless(deployment: DeploymentRecord, gangs: Any, *rest: Any, **named: Any) -> Plan:
        known = list(gangs)
        planned = plan(deployment, known, *rest, **named)
        touched = {*planned.deleted_gangs, *(gang.gang_id for gang in planned.saved_gangs)}
        ended = [
            move(gang, Trigger.UNWANTED, now=named["now"])
            for gang in known
            if gang.actor is not None and gang.phase is ReplicaPhase.READY and gang.gang_id not in touched
            if chosen(gang, known, planned, deployment)
        ]
        said = [
            Event(key=gang.key, time=named["now"], reason="ActorDraining", message="", subject=gang.gang_id)
            for gang in ended
        ]
        return replace(planned, saved_gangs=(*planned.saved_gangs, *ended), events=(*planned.events, *said))

    return Cores(plan=careless)


def restarts_actors_in_silence() -> Cores:
    """Neither events nor the deployment's status say that an actor was lost."""

    def silent(deployment: DeploymentRecord, *args: Any, **named: Any) -> Plan:
        planned = plan(deployment, *args, **named)
        events = tuple(event for event in planned.events if not event.reason.startswith("Actor"))
        saved = planned.saved_deployment
        if saved is not None:
            saved = replace(saved, conditions=deployment.conditions)
        return replace(planned, events=events, saved_deployment=saved)

    return Cores(plan=silent)


def lets_two_incarnations_live() -> Cores:
    """The next life of an actor begins while the last one is still there."""

    def impatient(deployment: Any, gangs: Any, *rest: Any, **named: Any) -> Plan:
        seen = [gang for gang in gangs if gang.actor is None or gang.phase < ReplicaPhase.DRAINING]
        return plan(deployment, seen, *rest, **named)

    return Cores(plan=impatient)


def takes_stale_snapshots() -> Cores:
    """Whoever was an actor once may still store its state."""
    lives: dict[ReplicaId, Life] = {}

    def credulous(records: Records, caller: Caller, snapshot: SnapshotRecord) -> Change:
        try:
            change = store_state(records, caller, snapshot)
        except ActorFencedError:
            life = lives.get(caller.replica_id)
            deployment = records.deployments.get(life.deployment.key) if life is not None else None
            actor = deployment.actor(life.actor.key) if life is not None and deployment is not None else None
            if deployment is None or actor is None:
                raise
            saved = deployment.with_actor(replace(actor, snapshot=snapshot))
            return Change(generation=deployment.generation, saved_deployments=(saved,))
        lives[caller.replica_id] = life_of(records, caller)
        return change

    return Cores(store_state=credulous)


def forgets_snapshots() -> Cores:
    """A new life begins empty, whatever is stored."""

    def forgetful(deployment: Any, *args: Any, **named: Any) -> Plan:
        planned = plan(deployment, *args, **named)
        saved = tuple(replace(gang, restore=False) for gang in planned.saved_gangs)
        return replace(planned, saved_gangs=saved)

    return Cores(plan=forgetful)


PLANTED_ACTORS: dict[str, tuple[Callable[[], Cores], str]] = {
    "starts replicas before their actors": (starts_replicas_before_their_actors, "invariant 4"),
    "recreates every actor": (recreates_every_actor, "invariant 4"),
    "stops old actors early": (stops_old_actors_early, "invariant 4"),
    "restarts actors in silence": (restarts_actors_in_silence, "invariant 4"),
    "lets two incarnations live": (lets_two_incarnations_live, "invariant 4"),
    "takes stale snapshots": (takes_stale_snapshots, "invariant 4"),
    "forgets snapshots": (forgets_snapshots, "invariant 4"),
}
"""Each planted bug by name: the cores that have it, and how the story must end."""
