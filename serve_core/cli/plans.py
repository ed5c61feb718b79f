"""What a deploy would do, as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from serve_core.model.deployplan import DeployEffect, DeploymentPlan, FieldChange
from serve_core.model.resources import describe


def plan_lines(application: str, plans: Iterable[DeploymentPlan]) -> Iterator[str]:
    """The lines for an application: each deployment, what changes in it, and what that needs."""
    for plan in plans:
        yield f"{application}.{plan.deployment}: {_effect(plan)}"
        for change in plan.changes:
            yield f"  {_change(change)}"
        if plan.surge_replicas or plan.actors:
            yield f"  {_starts(plan)}"


def _effect(plan: DeploymentPlan) -> str:
    match plan.effect:
        case DeployEffect.CREATE:
            return f"new, revision {plan.new_revision}"
        case DeployEffect.ROLLOUT if plan.old_revision == plan.new_revision:
            return f"restart, revision {plan.new_revision} is tried again"
        case DeployEffect.ROLLOUT:
            return f"restart, revision {plan.old_revision} -> {plan.new_revision}"
        case DeployEffect.RECONFIGURE:
            return f"reconfigure in place, revision {plan.new_revision} stays"
        case DeployEffect.DELETE:
            return f"removed, with revision {plan.old_revision}"
        case _:
            return "unchanged"


def _change(change: FieldChange) -> str:
    how = "restarts" if change.restarts else "in place"
    return f"{change.field}: {change.old_value or 'none'} -> {change.new_value or 'none'} ({how})"


def _starts(plan: DeploymentPlan) -> str:
    room = "fits" if plan.fits else f"does not fit now: {plan.missing}"
    started = " and then ".join(filter(None, (_counted("actor", plan.actors), _replicas(plan))))
    return f"starts {started} beside what runs, needs {describe(plan.needs)}: {room}"


def _counted(what: str, names: Sequence[str]) -> str:
    return f"{what}{'s' * (len(names) != 1)} {', '.join(names)}" if names else ""


def _replicas(plan: DeploymentPlan) -> str:
    count = plan.surge_replicas
    if not count:
        return ""
    gangs = count // plan.gang_size
    whole = f" in {gangs} gang{'s' * (gangs != 1)} of {plan.gang_size}" * (plan.gang_size > 1)
    return f"{count} replica{'s' * (count != 1)}{whole}"
