"""Plans for one deployment. Pure and stateless: the same records and observations give the same plan.

The sequence: follow each gang through its life; account for those that failed; start what is missing; stop what is too
many; bring settings up to date; summarise. What follows from saving a plan is planned when its effects are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from serve_core.model.ids import GangId
from serve_core.model.replica import ReplicaPhase
from serve_core.plan.conditions import conditions
from serve_core.plan.events import Forgotten
from serve_core.plan.failures import account
from serve_core.plan.follow import follow_gangs
from serve_core.plan.inplace import reconfigure
from serve_core.plan.observed import Observed
from serve_core.plan.placement import Capacity
from serve_core.plan.plan import Draft, Plan, TableFacts, in_order
from serve_core.plan.policy import Policy
from serve_core.plan.records import DeploymentRecord, GangRecord, Records
from serve_core.plan.rollout import wanted
from serve_core.plan.scale import start_missing, stop_surplus


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
) -> Plan:
    """What to save and to do for a deployment.

    Args:
        deployment: Its record.
        gangs: Its gangs.
        observed: All that was seen. Until the backend was listed, nothing is planned.
        capacity: What is free, counted from the gangs of all deployments as they are recorded now; it is used up.
        table: What routers know of its replicas.
        now: Seconds since the Unix epoch.
        ids: Unique strings of [A-Za-z0-9], for new gangs.
        unit_random: Drawn from [0, 1) for this plan, to spread retries.
        policy: How patient to be.

    Raises:
        InvariantViolation: A record is in a phase that it cannot be in. Nothing was changed.
    """
    before = {gang.gang_id: gang for gang in gangs}
    if not observed.listed_at:
        return Plan(reasons=("the backend was not listed yet",))
    draft = Draft(
        deployment=deployment,
        gangs=dict(before),
        observed=observed,
        capacity=capacity,
        table=table,
        now=now,
        ids=ids,
        unit_random=unit_random,
        policy=policy or Policy(),
    )
    follow_gangs(draft)
    account(draft)
    start_missing(draft, wanted(draft))
    stop_surplus(draft, wanted(draft))
    reconfigure(draft)
    return _finish(draft, deployment, before)


def apply(records: Records, planned: Plan) -> Records:
    """The records once a plan is saved."""
    gangs = {**records.gangs, **{gang.gang_id: gang for gang in planned.saved_gangs}}
    for gone in planned.deleted_gangs:
        gangs.pop(gone, None)
    deployments, applications = dict(records.deployments), dict(records.applications)
    saved = planned.saved_deployment
    if saved is not None:
        deployments[saved.key] = saved
        if planned.forget:
            del deployments[saved.key]
            application = applications.get(saved.key.application)
            if application is not None and application.deleting and not _has_deployments(deployments, application.name):
                del applications[application.name]
    return Records(applications=applications, deployments=deployments, gangs=gangs)


def forgotten(records: Records, planned: Plan, *, now: float) -> tuple[Forgotten, ...]:
    """The events that follow from saving a plan; ``records`` are those from before it."""
    gone = [records.gangs[gang_id] for gang_id in planned.deleted_gangs if gang_id in records.gangs]
    return tuple(
        Forgotten(gang_id=gang.gang_id, replica_ids=tuple(member.replica_id for member in gang.members), now=now)
        for gang in gone
    )


def _has_deployments(deployments: Iterable[tuple[str, str]], application: str) -> bool:
    return any(key[0] == application for key in deployments)


def _finish(draft: Draft, deployment: DeploymentRecord, before: dict[GangId, GangRecord]) -> Plan:
    kept = [gang for gang in in_order(draft.gangs.values()) if gang.phase is not ReplicaPhase.GONE]
    deleted = tuple(gang.gang_id for gang in draft.gangs.values() if gang.phase is ReplicaPhase.GONE)
    blocked = "; ".join(shortage.message for shortage in draft.shortages.values())
    after = replace(draft.deployment, observed_generation=draft.deployment.generation)
    after = replace(after, conditions=conditions(after, kept, blocked=blocked, now=draft.now))
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
    )
