"""A deployment's actors: which are to be there, each with one life at a time.

An actor's process is a gang of one, which is placed, started, watched and drained as any other. What is different:

* An actor of every revision that may run is there: of the target, of the last good one, and of those with replicas left.
* Its lives do not overlap: the next begins when nothing of the last is left, so that state has one owner.
* Only the one that failed begins anew, after a backoff of its own.
* One on a node that is being drained ends there before it begins elsewhere.
* When the last replica of a revision is gone, the actors that no other one has are drained, and forgotten with their state.
"""

from __future__ import annotations

from dataclasses import replace

from serve_core.errors import Reason
from serve_core.model.actor import ActorKey, ActorOnFailure, ActorSpec
from serve_core.model.ids import RevisionId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.plan.actions import ReservePlacement
from serve_core.plan.actor_keys import actor_key, actor_spec
from serve_core.plan.actor_records import ActorRecord
from serve_core.plan.create import new_gang
from serve_core.plan.follow import follow
from serve_core.plan.lifecycle import LIVE, Trigger
from serve_core.plan.moving import is_moving, is_overdue
from serve_core.plan.placement import GangRequest, Shortage
from serve_core.plan.plan import Draft, in_order
from serve_core.plan.records import GangRecord
from serve_core.plan.scale import BLOCKED_RETRY_S


def begin_lives(draft: Draft) -> None:
    """Begins a life of each actor that is wanted and has none, as far as there is room."""
    for revision in _served(draft):
        kept = draft.deployment.revision(revision)
        for actor in kept.spec.actors if kept is not None else ():
            if kept is not None:
                _begin(draft, revision, actor_key(kept.spec, revision, actor), actor)


def move_from_drained_nodes(draft: Draft) -> None:
    """Drains the actors on nodes that are being drained: those with room elsewhere, and all once the time there is over."""
    for gang in in_order(draft.actors.values()):
        record = draft.deployment.actor(gang.actor) if gang.actor is not None else None
        if record is None or gang.phase not in LIVE or not is_moving(draft, gang):
            continue
        node_id = gang.members[0].node_id
        placed = draft.capacity.fork().place(GangRequest.of(draft.spec(gang)))
        if isinstance(placed, Shortage) and not is_overdue(draft, gang):
            draft.stranded.append(f"actor {record.key.name} on node {node_id} waits for room: {placed.message}")
            draft.wake_at(draft.now + BLOCKED_RETRY_S)
            continue
        follow(draft, draft.move(gang, Trigger.UNWANTED))
        why = f"node {node_id}, on which it was, is being drained"
        failure = Failure(reason=Reason.DRAINING.value, message=why, time=draft.now)
        draft.deployment = draft.deployment.with_actor(
            replace(record, gang_id=None, address="", suspicion="", failure=failure)
        )


def retire(draft: Draft) -> None:
    """Drains the actors that nothing may want any more, and forgets those of which nothing is left."""
    wanted = {key for revision in _wanted(draft) for key in draft.deployment.actor_keys(revision)}
    for gang in in_order(draft.actors.values()):
        if gang.actor not in wanted and gang.phase in LIVE:
            follow(draft, draft.move(gang, Trigger.UNWANTED))
    left = {gang.actor for gang in draft.actors.values() if gang.phase is not ReplicaPhase.GONE}
    kept = tuple(
        actor if actor.key in wanted else replace(actor, gang_id=None, address="", suspicion="", first_ready_at=0.0)
        for actor in draft.deployment.actors
        if actor.key in wanted or actor.key in left
    )
    if kept != draft.deployment.actors:
        draft.deployment = replace(draft.deployment, actors=kept)


def _wanted(draft: Draft) -> dict[RevisionId, None]:
    """The revisions of which something runs, or may be started."""
    record = draft.deployment
    chosen = [] if record.deleting else [record.target, *([record.last_good] if record.last_good is not None else [])]
    left = [gang.revision for gang in draft.gangs.values() if gang.phase is not ReplicaPhase.GONE]
    return dict.fromkeys([*chosen, *left])


def _served(draft: Draft) -> list[RevisionId]:
    """Those whose actors are begun anew when they are lost: a target that was given up is left alone.

    What finishes may need them as well, be it of an old revision or of a deployment that is being removed.
    """
    record = draft.deployment
    chosen = {gang.revision for gang in draft.gangs.values() if gang.phase <= ReplicaPhase.DRAINING}
    if not record.deleting:
        chosen |= {record.last_good} if record.last_good is not None else set()
        chosen |= {record.target} if record.terminal is None else set()
    return [revision for revision in _wanted(draft) if revision in chosen]


def _begin(draft: Draft, revision: RevisionId, key: ActorKey, actor: ActorSpec) -> None:
    record = draft.deployment.actor(key) or ActorRecord(key=key)
    draft.deployment = draft.deployment.with_actor(record)
    there = any(gang.actor == key and gang.phase is not ReplicaPhase.GONE for gang in draft.actors.values())
    if there or record.given_up is not None:
        return
    if draft.now < record.retry_at:
        draft.wake_at(record.retry_at)
        return
    kept = draft.deployment.revision(revision)
    if kept is None:
        return
    starts_per_node = draft.policy.max_concurrent_starts_per_node
    placed = draft.capacity.place(GangRequest.of(actor_spec(kept.spec, actor)), starts_per_node=starts_per_node)
    if isinstance(placed, Shortage):
        draft.shortages.setdefault(revision, replace(placed, message=f"actor {key.name}: {placed.message}"))
        draft.wake_at(draft.now + BLOCKED_RETRY_S)
        return
    _new_life(draft, record, actor, new_gang(draft, revision, placed, restarts=record.restarts))


def _new_life(draft: Draft, record: ActorRecord, actor: ActorSpec, gang: GangRecord) -> None:
    incarnation = record.incarnation + 1
    restores = actor.on_failure is ActorOnFailure.RESTART_FROM_SNAPSHOT
    restored = restores and record.snapshot is not None
    renews = actor.on_failure is ActorOnFailure.RESTART_REPLICAS and bool(record.first_ready_at)
    draft.save(replace(gang, actor=record.key, incarnation=incarnation, restore=restored))
    draft.deployment = draft.deployment.with_actor(
        replace(
            record,
            gang_id=gang.gang_id,
            incarnation=incarnation,
            restores=restores,
            restored=restored,
            renewed_at=draft.now if renews else 0.0,
        )
    )
    draft.reasons.append(f"{gang.gang_id} is created for actor {record.key.name}, incarnation {incarnation}")
    draft.actions.append(ReservePlacement(gang_id=gang.gang_id, key=gang.key, bundles=gang.bundles))
