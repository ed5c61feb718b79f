"""Plans for one deployment. Pure and stateless: the same records and observations give the same plan.

The sequence: note what is wanted anew; follow each gang through its life; account for those that failed; see how far the
change of revision is; start what is missing; stop what is too many; bring settings up to date; summarise. What follows from saving a plan is planned when its effects are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from serve_core.model.ids import GangId, NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.actor_lives import account_actors
from serve_core.plan.actors import begin_lives, move_from_drained_nodes, retire
from serve_core.plan.announce import events
from serve_core.plan.conditions import conditions
from serve_core.plan.directory import tell_of_actors
from serve_core.plan.events import Forgotten
from serve_core.plan.failures import account
from serve_core.plan.follow import follow_gangs
from serve_core.plan.inplace import reconfigure
from serve_core.plan.lifecycle import STARTING
from serve_core.plan.observed import Observed
from serve_core.plan.persistent import with_changes
from serve_core.plan.placement import Capacity
from serve_core.plan.plan import Draft, Plan, Settled, TableFacts, in_order
from serve_core.plan.policy import Policy
from serve_core.plan.progress import advance, begin, has_room
from serve_core.plan.records import DeploymentRecord, GangRecord, NodeRecord, Records, replicas_in
from serve_core.plan.remember import remember
from serve_core.plan.scale import start_missing, stop_surplus
from serve_core.plan.waiting import place_in_queue, room_missing, waiting_for


def plan(
    deployment: DeploymentRecord,
    gangs: Iterable[GangRecord],
    observed: Observed,
    *,
    capacity: Capacity,
    table: TableFacts,
    now: float,
    ids: Iterator[str],
    unit_random: float,
    policy: Policy | None = None,
    settled: Settled | None = None,
    draining: Mapping[NodeId, NodeRecord] | None = None,
) -> Plan:
    """What to save and to do for a deployment.

    Args:
        deployment: Its record.
        gangs: Its gangs, of replicas and of actors, but for those that are settled.
        observed: All that was seen. Until the backend was listed, nothing is planned.
        capacity: What is free, counted from the gangs of all deployments as they are recorded now; it is used up.
        table: What routers know of its replicas.
        now: Seconds since the Unix epoch.
        ids: Unique strings of [A-Za-z0-9], for new gangs.
        unit_random: Drawn from [0, 1) for this plan, to spread retries.
        policy: How patient to be.
        settled: Its gangs that are not among ``gangs``: see ``settled.SettledGangs``, which alone says which may be. The plan
            is the same as if they were, but may be due again sooner.
        draining: Nodes that are being drained: what is there is to move elsewhere.

    Raises:
        InvariantViolation: A record is in a phase that it cannot be in. Nothing was changed.
    """
    before = {gang.gang_id: gang for gang in gangs}
    replicas = {gang_id: gang for gang_id, gang in before.items() if gang.actor is None}
    actors = {gang_id: gang for gang_id, gang in before.items() if gang.actor is not None}
    if not observed.listed_at:
        return Plan(reasons=("the backend was not listed yet",))
    draft = Draft(
        deployment=deployment,
        gangs=replicas,
        actors=actors,
        observed=observed,
        capacity=capacity,
        table=table,
        now=now,
        ids=ids,
        unit_random=unit_random,
        policy=policy or Policy(),
        settled=settled or Settled(),
        draining=draining or {},
    )
    if draft.settled.wake_at is not None:
        draft.wake_at(draft.settled.wake_at)
    begin(draft)
    follow_gangs(draft)
    remember(draft)
    account(draft)
    account_actors(draft)
    advance(draft)
    move_from_drained_nodes(draft)
    begin_lives(draft)
    start_missing(draft)
    if stop_surplus(draft):
        start_missing(draft)
    retire(draft)
    reconfigure(draft)
    tell_of_actors(draft)
    return _finish(draft, deployment, before)


def apply(records: Records, planned: Plan) -> Records:
    """The records once a plan is saved."""
    gangs = with_changes(records.gangs, {gang.gang_id: gang for gang in planned.saved_gangs}, planned.deleted_gangs)
    saved = planned.saved_deployment
    if saved is None:
        return replace(records, gangs=gangs)
    if not planned.forget:
        return replace(records, gangs=gangs, deployments=with_changes(records.deployments, {saved.key: saved}))
    left = Records(
        applications=records.applications,
        deployments=with_changes(records.deployments, {}, (saved.key,)),
        gangs=gangs,
    )
    application = records.applications.get(saved.key.application)
    if application is not None and application.deleting and not left.deployments_of(application.name):
        return replace(left, applications=with_changes(records.applications, {}, (application.name,)))
    return left


def forgotten(records: Records, planned: Plan, *, now: float) -> tuple[Forgotten, ...]:
    """The events that follow from saving a plan; ``records`` are those from before it."""
    gone = [records.gangs[gang_id] for gang_id in planned.deleted_gangs if gang_id in records.gangs]
    return tuple(
        Forgotten(gang_id=gang.gang_id, replica_ids=tuple(member.replica_id for member in gang.members), now=now)
        for gang in gone
    )


def _finish(draft: Draft, deployment: DeploymentRecord, before: dict[GangId, GangRecord]) -> Plan:
    everything = draft.gangs | draft.actors
    kept = [gang for gang in in_order(everything.values()) if gang.phase is not ReplicaPhase.GONE]
    deleted = tuple(gang.gang_id for gang in everything.values() if gang.phase is ReplicaPhase.GONE)
    blocked = "; ".join(shortage.message for shortage in draft.shortages.values())
    after = _summarised(draft, [gang for gang in kept if gang.actor is None])
    forget = after.deleting and not kept
    later = [wake for wake in draft.wakes if wake > draft.now]
    return Plan(
        saved_deployment=after if forget or after != deployment else None,
        saved_gangs=tuple(gang for gang in kept if before.get(gang.gang_id) != gang),
        deleted_gangs=deleted,
        forget=forget,
        actions=tuple(draft.actions),
        wake_at=min(later) if later and not forget else None,
        blocked=blocked,
        reasons=tuple(draft.reasons),
        events=events(deployment, after, before, everything, forget=forget, now=draft.now),
        frees_claim=deployment.waiting is not None
        and (after.waiting is None or after.waiting.since != deployment.waiting.since),
        frees_starts=any(
            gang.phase in STARTING and everything[gang.gang_id].phase not in STARTING for gang in before.values()
        ),
    )


def _summarised(draft: Draft, kept: Sequence[GangRecord]) -> DeploymentRecord:
    record, rollout, why = draft.deployment, draft.deployment.rollout, waiting_for(draft)
    if rollout is not None and rollout.waiting_for != why:
        rollout = replace(rollout, waiting_for=why)
    whole = replicas_in(draft.live(record.target)) + draft.settled.replicas >= record.num_replicas
    record = replace(
        record,
        rollout=rollout,
        observed_generation=record.generation,
        observed_replicas=record.num_replicas,
        waiting=place_in_queue(draft),
        vacant_places=() if whole else record.vacant_places,
    )
    truths = conditions(
        record,
        kept,
        draft.observed,
        settled=draft.settled.replicas,
        blocked=room_missing(draft),
        stranded=draft.stranded,
        now=draft.now,
    )
    if truths != record.conditions:
        record = replace(record, conditions=truths)
    return has_room(draft.deployment, record, now=draft.now)
