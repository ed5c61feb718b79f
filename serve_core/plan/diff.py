"""What a deploy would do to each deployment: what changes, which of it restarts, what that needs and whether there is room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import gcd
from typing import Any

from serve_core.model.actor import ActorSpec
from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey, RevisionId
from serve_core.model.payload import Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.placement import Capacity, GangRequest, Shortage, total
from serve_core.plan.records import DeploymentRecord, Records, replicas_in
from serve_core.plan.revision import revision_id
from serve_core.plan.whole import gangs_for

TEXT_MAX = 60
"""Characters of a value that are shown."""

HIDDEN = "(hidden)"
"""Stands for the values of environment variables, which are often secrets."""

PayloadText = Callable[[Payload], str]


@dataclass(frozen=True, slots=True)
class _Step:
    """One field: its path, its two values, and the old description with the new one."""

    path: str
    old_value: Any
    new_value: Any
    changed: DeploymentSpec


def payload_size(payload: Payload) -> str:
    """A payload in words, for who cannot decode it."""
    return f"({payload.encoding.name.lower()}, {len(payload.data)} bytes)"


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


def field_changes(
    old: DeploymentSpec, new: DeploymentSpec, *, payload_text: PayloadText = payload_size
) -> tuple[FieldChange, ...]:
    """The fields that differ, in the order of the description."""
    return tuple(_field_changes(old, new, payload_text))


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
    revision = revision_id(wanted)
    changes: tuple[FieldChange, ...] = ()
    effect = DeployEffect.CREATE
    if record is not None and not record.deleting:
        before = replace(record.target_spec, num_replicas=record.num_replicas)
        changes = field_changes(before, wanted, payload_text=payload_text)
        effect = _effect(record, revision, changes)
    starts = 0 if effect is DeployEffect.UNCHANGED else _starts(records, key, wanted, revision, effect)
    missing = _missing(capacity, GangRequest.of(wanted), starts)
    replicas = starts * wanted.gang.size
    return DeploymentPlan(
        deployment=wanted.name,
        effect=effect,
        old_revision=None if record is None or record.deleting else record.target,
        new_revision=revision,
        changes=changes,
        surge_replicas=replicas,
        needs=_times(total((wanted.resources, *wanted.bundles)), replicas),
        fits=not missing,
        missing=missing,
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


def _missing(capacity: Capacity, request: GangRequest, count: int) -> str:
    what = "replicas" if request.size == 1 else f"gangs of {request.size}"
    for placed in range(count):
        found = capacity.place(request)
        if isinstance(found, Shortage):
            return f"there is room for {placed} of {count} {what}: {found.message}"
    return ""


def _times(resources: Resources, count: int) -> Resources:
    return Resources(
        cpus=round(resources.cpus * count, 4),
        gpus=round(resources.gpus * count, 4),
        memory_bytes=resources.memory_bytes * count,
        custom={name: round(amount * count, 4) for name, amount in resources.custom.items()} if count else {},
    )


def _field_changes(old: DeploymentSpec, new: DeploymentSpec, payload_text: PayloadText) -> Iterator[FieldChange]:
    before = revision_id(old)
    for step in _steps(old, new):
        if step.old_value == step.new_value:
            continue
        # The rule itself is asked, so that this cannot disagree with what then happens.
        restarts = revision_id(step.changed) != before
        one, other = dict(_leaves(step.path, step.old_value)), dict(_leaves(step.path, step.new_value))
        for path in dict.fromkeys([*one, *other]):
            if one.get(path) != other.get(path):
                yield FieldChange(
                    field=path,
                    old_value=_text(path, one.get(path), payload_text),
                    new_value=_text(path, other.get(path), payload_text),
                    restarts=restarts,
                )


def _steps(old: DeploymentSpec, new: DeploymentSpec) -> Iterator[_Step]:
    """Every field that follows a rule of its own."""
    for field in fields(DeploymentSpec):
        if field.name == "gang":
            yield from _gang_steps(old, new.gang)
        elif field.name == "actors":
            yield from _actor_steps(old, new.actors)
        elif field.name != "name":
            value = getattr(new, field.name)
            yield _Step(field.name, getattr(old, field.name), value, replace(old, **{field.name: value}))


def _gang_steps(old: DeploymentSpec, gang: GangPolicy) -> Iterator[_Step]:
    for field in fields(GangPolicy):
        value = getattr(gang, field.name)
        changed = replace(old, gang=replace(old.gang, **{field.name: value}))
        yield _Step(f"gang.{field.name}", getattr(old.gang, field.name), value, changed)


def _actor_steps(old: DeploymentSpec, actors: tuple[ActorSpec, ...]) -> Iterator[_Step]:
    """Which there are, and then what differs in those that stay."""
    known, wanted = {actor.name: actor for actor in old.actors}, {actor.name: actor for actor in actors}
    named = replace(old, actors=tuple(known.get(actor.name, actor) for actor in actors))
    yield _Step("actors", ", ".join(known), ", ".join(wanted), named)
    for before in old.actors:
        after = wanted.get(before.name, before)
        for field in fields(ActorSpec):
            value = getattr(after, field.name)
            changed = tuple(replace(actor, **{field.name: value}) if actor is before else actor for actor in old.actors)
            path = f"actors[{before.name}].{field.name}"
            yield _Step(path, getattr(before, field.name), value, replace(old, actors=changed))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each value inside a field, by its path."""
    match value:
        case Resources() | HealthPolicy() | RolloutPolicy():
            for field in fields(value):
                yield from _leaves(f"{path}.{field.name}", getattr(value, field.name))
        case Mapping():
            for name, inner in value.items():
                yield f"{path}[{name}]", inner
        case (Resources(), *_):
            for index, inner in enumerate(value):
                yield from _leaves(f"{path}[{index}]", inner)
        case tuple() if not isinstance(value, Payload):
            yield path, ", ".join(map(str, value))
        case _:
            yield path, value


def _text(path: str, value: Any, payload_text: PayloadText) -> str:
    match value:
        case None:
            return ""
        case Payload():
            return _short(payload_text(value))
        case float():
            return str(value).removesuffix(".0")
        case _:
            return HIDDEN if _is_secret(path) else _short(str(value))


def _is_secret(path: str) -> bool:
    return path.startswith("env[") or ".env[" in path


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 1] + "…"
