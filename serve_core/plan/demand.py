"""What is asked of a deployment, by what its replicas and the routers said last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, RouterId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.lifecycle import LIVE
from serve_core.plan.observed import Observed, RouterObserved
from serve_core.plan.records import DeploymentRecord, GangRecord


class Demand(NamedTuple):
    """What is asked of a deployment, in slots.

    Attributes:
        ongoing: Requests that run.
        reserved: Slots that are promised and not used yet.
        queued: Requests that wait in routers.
        unknown: Replicas that take requests and have not said yet what they hold.
    """

    ongoing: int = 0
    reserved: int = 0
    queued: int = 0
    unknown: int = 0

    def load(self, target: float) -> float:
        """All of it. One that has said nothing is taken to have just what it is to have, so that it changes nothing."""
        return self.ongoing + self.reserved + self.queued + self.unknown * target

    def __str__(self) -> str:
        return f"{self.ongoing} running, {self.reserved} reserved, {self.queued} waiting"


def demand(record: DeploymentRecord, gangs: Iterable[GangRecord], observed: Observed) -> Demand:
    """What is asked of a deployment now. Costs its replicas.

    What runs in those that are to end is theirs to finish, and wants no others.
    """
    ongoing = reserved = unknown = 0
    for gang in gangs:
        if gang.phase not in LIVE or gang.actor is not None:
            continue
        for member in gang.members:
            seen = observed.replica(member.replica_id, epoch=member.epoch)
            ongoing += seen.load.ongoing
            reserved += seen.load.reserved
            unknown += (
                seen.report is None
                and gang.phase is ReplicaPhase.READY
                and takes_calls(member.rank, record.target_spec)
            )
    return Demand(ongoing, reserved, queued(record.key, observed.routers), unknown)


def queued(key: DeploymentKey, routers: Mapping[RouterId, RouterObserved]) -> int:
    """How many requests for a deployment wait in all routers."""
    return sum(router.queued.get(key, 0) for router in routers.values())


def takes_calls(rank: int, spec: DeploymentSpec) -> bool:
    """Whether the member of this rank takes the requests of callers."""
    return rank == 0 or spec.gang.route is GangRoute.ALL


def gangs_wanted(spec: DeploymentSpec, load: float, *, gangs: int, tolerance: float) -> int:
    """How many gangs are to share a load, where there are ``gangs``.

    Args:
        spec: What they run; it scales by itself.
        load: What is asked of all of them.
        gangs: How many are wanted now.
        tolerance: The share by which they may have more or less than their target and stay as many.
    """
    assert spec.autoscaling is not None
    of_one = spec.autoscaling.target(spec.max_ongoing_requests) * (
        spec.gang.size if spec.gang.route is GangRoute.ALL else 1
    )
    # Rounded, so that what floats add up to does not make a gang.
    wanted = round(load / of_one, 9)
    if gangs and abs(round(wanted / gangs, 9) - 1.0) <= tolerance + 1e-9:
        return gangs
    return math.ceil(wanted)
