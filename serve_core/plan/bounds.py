"""Between which numbers of replicas a deployment scales by itself, in whole gangs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from serve_core.errors import FieldViolation
from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.records import DeploymentRecord
from serve_core.plan.revision import revision_id
from serve_core.plan.rules import seconds_violations
from serve_core.plan.validate_gang import num_replicas_violations
from serve_core.plan.whole import gangs_for


class ScaleBounds(NamedTuple):
    """The fewest and the most replicas; both make whole gangs."""

    least: int
    most: int

    def nearest(self, num_replicas: int) -> int:
        """The number within them that is nearest."""
        return max(self.least, min(self.most, num_replicas))


def bounds_of(spec: DeploymentSpec) -> ScaleBounds | None:
    """The bounds of what scales by itself, else None.

    They were judged with the gangs of their own description. A revision of gangs of another size that is gone back to
    has one gang more rather than one fewer, as with any number of replicas.
    """
    policy, size = spec.autoscaling, spec.gang.size
    if policy is None:
        return None
    return ScaleBounds(
        gangs_for(policy.min_replicas, size=size) * size, gangs_for(policy.max_replicas, size=size) * size
    )


def scales_by_itself(record: DeploymentRecord) -> bool:
    """Whether a deployment's number of replicas follows what is asked of it.

    Of one that is removed, or of which nothing can run, nothing is asked that more replicas would answer.
    """
    if record.target_spec.autoscaling is None or record.deleting:
        return False
    return record.terminal is None or record.last_good not in (None, record.target)


def is_proven(record: DeploymentRecord) -> bool:
    """Whether what is wanted has run whole. Until then there is to be something of it, or of what would be gone back to."""
    return record.terminal is None and record.last_good == record.target and not record.unproven


def as_scaled(spec: DeploymentSpec, record: DeploymentRecord | None) -> DeploymentSpec:
    """The description with as many replicas as its deployment then has: one that scales by itself keeps its number.

    Of another revision there is one gang at least, to show that it runs.
    """
    bounds = bounds_of(spec)
    if bounds is None or record is None or record.deleting:
        return spec
    size = spec.gang.size
    least = 0 if revision_id(spec) == record.target else size
    kept = max(gangs_for(record.num_replicas, size=size) * size, least)
    return replace(spec, num_replicas=bounds.nearest(kept))


def autoscaling_violations(
    policy: AutoscalingPolicy, *, num_replicas: int, size: int, path: str = ""
) -> Iterator[FieldViolation]:
    """What is wrong with how a deployment of gangs of ``size`` scales by itself, and with what it begins with.

    ``path`` is that of the deployment, with a dot at its end.
    """
    where = f"{path}autoscaling"
    bounds = (("min_replicas", policy.min_replicas), ("max_replicas", policy.max_replicas))
    for name, bound in bounds:
        yield from num_replicas_violations(bound, size=size, path=f"{where}.{name}")
    if policy.max_replicas < max(policy.min_replicas, 1):
        least = "1" if policy.min_replicas < 1 else f"min_replicas = {policy.min_replicas}"
        yield FieldViolation(f"{where}.max_replicas", f"{policy.max_replicas} must not be below {least}")
    elif outside := outside_bounds(policy, num_replicas):
        yield FieldViolation(f"{path}num_replicas", outside)
    target = policy.target_ongoing_requests
    if target is not None and not 0 < target < float("inf"):
        yield FieldViolation(f"{where}.target_ongoing_requests", f"{target:g} must be a number above 0")
    yield from seconds_violations(where, (("look_back_s", policy.look_back_s),))
    for name, delay_s in (("upscale_delay_s", policy.upscale_delay_s), ("downscale_delay_s", policy.downscale_delay_s)):
        if not 0 <= delay_s < float("inf"):
            yield FieldViolation(f"{where}.{name}", f"{delay_s:g} must be at least 0 seconds")


def outside_bounds(policy: AutoscalingPolicy | None, num_replicas: int) -> str:
    """Why a deployment that scales so by itself cannot have so many replicas; empty if it can."""
    if policy is None or policy.min_replicas <= num_replicas <= policy.max_replicas:
        return ""
    return f"{num_replicas} is not from autoscaling.min_replicas = {policy.min_replicas} to max_replicas = {policy.max_replicas}"
