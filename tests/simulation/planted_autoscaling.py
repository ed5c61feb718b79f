"""Bugs of autoscaling that were put in on purpose, as in ``planted``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serve_core.plan.autoscaler import Autoscaler, Rescale
from serve_core.plan.deploy import Change, rescale
from serve_core.plan.records import DeploymentRecord
from tests.simulation.cores import Cores


def _rescales(number: Callable[[DeploymentRecord], int]) -> Cores:
    def careless(*args: Any, **named: Any) -> Change:
        change = rescale(*args, **named)
        saved = tuple(replace(record, num_replicas=number(record)) for record in change.saved_deployments)
        return replace(change, saved_deployments=saved)

    return Cores(rescale=careless)


def scales_beyond_its_bounds() -> Cores:
    """What is to have the most gets a gang more."""

    def more(record: DeploymentRecord) -> int:
        policy, size = record.target_spec.autoscaling, record.target_spec.gang.size
        is_most = policy is not None and record.num_replicas >= policy.max_replicas
        return record.num_replicas + (2 * size if is_most else 0)

    return _rescales(more)


def splits_gangs() -> Cores:
    """Members are counted where gangs are to be."""
    return _rescales(lambda record: record.num_replicas + (record.target_spec.gang.size > 1))


class _TakesNothingBack(Autoscaler):
    def decide(self, *args: Any, **named: Any) -> tuple[Rescale, ...]:
        return tuple(one for one in super().decide(*args, **named) if one.num_replicas > one.instead_of)


def takes_nothing_back() -> Cores:
    """Nothing is ever scaled down."""
    return Cores(autoscaler=_TakesNothingBack)


class _HearsNoRouters(Autoscaler):
    def decide(self, records: Any, observed: Any, **named: Any) -> tuple[Rescale, ...]:
        return super().decide(records, replace(observed, routers={}), **named)


def hears_no_routers() -> Cores:
    """What waits in routers does not count."""
    return Cores(autoscaler=_HearsNoRouters)


PLANTED_AUTOSCALING: dict[str, tuple[Callable[[], Cores], str]] = {
    "scales beyond its bounds": (scales_beyond_its_bounds, "invariant 9"),
    "splits gangs": (splits_gangs, "invariant 9"),
    "takes nothing back": (takes_nothing_back, "invariant 7"),
    "hears no routers": (hears_no_routers, "invariant 7"),
}
"""Each planted bug by name: the cores that have it, and how the story must end."""
