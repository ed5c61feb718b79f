"""What a deploy would do to each deployment: what changes, which of it restarts, what that needs and whether there is room."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import gcd

from serve_core.model.actor import ActorSharing, ActorSpec
from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.ids import DeploymentKey, RevisionId
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.plan.bounds import as_scaled
from serve_core.plan.fieldchanges import PayloadText, field_changes, payload_size
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.placement import Capacity, GangRequest, Shortage, total
from serve_core.plan.records import DeploymentRecord, Records, replicas_in
from serve_core.plan.revision import actor_version, revision_id
from serve_core.plan.whole import gangs_for


def deployment_plans(
    records: Records, spec: ApplicationSpec, *, capacity: Capacity, payload_text: PayloadText = payload_size
) -> tuple[DeploymentPlan, ...]:
    """What it does to each deployment that an application is deployed as described: those named, then those removed.

    Args:
        records: What is persisted, before the deploy.
        spec: The description, whole and valid.
        capacity: What is free now; it is used up.
        payload_text: Shows a payload.
    """
    plans = [
        _plan(records, DeploymentKey(spec.name, wanted.name), wanted, capacity, payload_text)
        for wanted in spec.deployments
    ]
    names = {wanted.name for wanted in spec.deployments}
    plans += [
        DeploymentPlan(
            deployment=record.key.deployment,
            effect=DeployEffect.DELETE,
            old_revision=record.target,
            new_revision=None,
        )
        for record in records.deployments_of(spec.name)
        if record.key.deployment not in names and not record.deleting
    ]
    return tuple(plans)


def surge(policy: RolloutPolicy, num_replicas: int, *, size: int = 1, old_sizes: Collection[int] = ()) -> int:
    """Replicas beyond those wanted that a rollout may have: whole gangs, and enough for it to move.

    Args:
        policy: How much it may be.
        num_replicas: How many are wanted.
        size: Members of the gangs that come.
        old_sizes: Members of those that go, if some have others.
    """
    most = gangs_for(policy.max_surge.rounded_up(num_replicas), size=size) * size
    # Gangs come and go in steps of this. If one that comes has no room and one that goes is needed, there is no next step: so
    # the two may not be short by more than one step together.
    step = gcd(size, *old_sizes)
    spare = policy.max_unavailable.rounded_down(num_replicas) // step * step
    needed = size + max(old_sizes, default=size) - step
    return max(most, needed - spare) if num_replicas else 0


def _plan(
    records: Records, key: DeploymentKey, wanted: DeploymentSpec, capacity: Capacity, payload_text: PayloadText
) -> DeploymentPlan:
    record = records.deployments.get(key)
    revision, wanted = revision_id(wanted), as_scaled(wanted, record)
    changes: tuple[FieldChange, ...] = ()
    effect = DeployEffect.CREATE
    if record is not None and not record.deleting:
        before = replace(record.target_spec, num_replicas=record.num_replicas)
        changes = field_changes(before, wanted, payload_text=payload_text)
        effect = _effect(record, revision, changes)
    starts = 0 if effect is DeployEffect.UNCHANGED else _starts(records, key, wanted, revision, effect)
    actors = _starting_actors(record, wanted, effect)
    missing = _missing_for_actors(capacity, actors) or _missing(capacity, GangRequest.of(wanted), starts)
    replicas = starts * wanted.gang.size
    members = _times(total((wanted.resources, *wanted.bundles)), replicas)
    return DeploymentPlan(
        deployment=wanted.name,
        effect=effect,
        old_revision=None if record is None or record.deleting else record.target,
        new_revision=revision,
        changes=changes,
        surge_replicas=replicas,
        needs=total((members, *(actor.resources for actor in actors))),
        fits=not missing,
        missing=missing,
        gang_size=wanted.gang.size,
        actors=tuple(actor.name for actor in actors),
    )


def _effect(record: DeploymentRecord, revision: RevisionId, changes: tuple[FieldChange, ...]) -> DeployEffect:
    if revision != record.target or record.terminal is not None:
        return DeployEffect.ROLLOUT  # What was given up is tried anew.
    return DeployEffect.RECONFIGURE if changes else DeployEffect.UNCHANGED


def _starts(
    records: Records, key: DeploymentKey, wanted: DeploymentSpec, revision: RevisionId, effect: DeployEffect
) -> int:
    """Gangs that start beside what runs, at once at the most."""
    size = wanted.gang.size
    live = [gang for gang in records.gangs_of(key) if gang.phase in LIVE]
    old = [gang for gang in live if gang.revision != revision]
    room = wanted.num_replicas - replicas_in(live)
    if effect is DeployEffect.ROLLOUT:
        room += surge(wanted.rollout, wanted.num_replicas, size=size, old_sizes={gang.size for gang in old})
    return max(0, min(room, wanted.num_replicas - replicas_in(live) + replicas_in(old)) // size)


def _starting_actors(
    record: DeploymentRecord | None, wanted: DeploymentSpec, effect: DeployEffect
) -> tuple[ActorSpec, ...]:
    """Those of a revision that comes, but for what it shares with the one before."""
    if effect not in (DeployEffect.CREATE, DeployEffect.ROLLOUT):
        return ()
    before = record.target_spec if effect is DeployEffect.ROLLOUT and record is not None else None
    kept = {
        (actor.name, actor_version(before, actor))
        for actor in (before.actors if before is not None else ())
        if before is not None and actor.shared is ActorSharing.DEPLOYMENT
    }
    return tuple(actor for actor in wanted.actors if (actor.name, actor_version(wanted, actor)) not in kept)


def _missing_for_actors(capacity: Capacity, actors: Sequence[ActorSpec]) -> str:
    for actor in actors:
        found = capacity.place(GangRequest(resources=actor.resources))
        if isinstance(found, Shortage):
            return f"there is no room for actor {actor.name}: {found.message}"
    return ""


def _missing(capacity: Capacity, request: GangRequest, count: int) -> str:
    what = "replicas" if request.size == 1 else f"gangs of {request.size}"
    for placed in range(count):
        found = capacity.place(request)
        if isinstance(found, Shortage):
            return f"there is room for {placed} of {count} {what}: {found.message}"
    return ""


def _times(resources: Resources, count: int) -> Resources:
    return Resources(
        cpus=resources.cpus * count,
        gpus=resources.gpus * count,
        memory_bytes=resources.memory_bytes * count,
        custom={name: amount * count for name, amount in resources.custom.items()} if count else {},
    )
