"""In which fields two descriptions of a deployment differ, and which of those differences replace its replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from serve_core.model.actor import ActorSpec
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.deployplan import FieldChange
from serve_core.model.gang import GangPolicy
from serve_core.model.health import HealthPolicy
from serve_core.model.payload import Payload
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec, RolloutPolicy
from serve_core.plan.revision import revision_id

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


def field_changes(
    old: DeploymentSpec, new: DeploymentSpec, *, payload_text: PayloadText = payload_size
) -> tuple[FieldChange, ...]:
    """The fields that differ, in the order of the description; ``payload_text`` shows a payload."""
    return tuple(_field_changes(old, new, payload_text))


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
        case Resources() | HealthPolicy() | RolloutPolicy() | AutoscalingPolicy():
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
