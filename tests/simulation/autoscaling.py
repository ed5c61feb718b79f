"""Autoscaling in a world: the controller's looks, what routers tell of their queues, and what must hold of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.spec import DeploymentSpec
from serve_core.plan.autoscaler import PERIOD_S, Rescale
from serve_core.plan.deploy import apply_change
from serve_core.plan.records import DeploymentRecord
from tests.simulation.engine import broken
from tests.simulation.network import Stream

if TYPE_CHECKING:
    from tests.simulation.controller import Controller
    from tests.simulation.router import Router

TOLD_S = 1.0
"""Between two reports of a router while requests wait in it."""


class Autoscaling:
    """One life of a controller looks once in a while, and at once where somebody waits for a deployment without replicas."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self._autoscaler = controller.cluster.cores.autoscaler()

    def begin(self) -> None:
        """Looks, from now on."""
        self.controller.later(PERIOD_S, self._look_again)

    def queued(self, queued: Mapping[DeploymentKey, int]) -> None:
        """A router told how many requests wait in it."""
        deployments = self.controller.records.deployments
        if any((record := deployments.get(key)) is not None and not record.num_replicas for key in queued):
            self._look()

    def _look_again(self) -> None:
        self.controller.later(PERIOD_S, self._look_again)
        self._look()

    def _look(self) -> None:
        controller = self.controller
        cores = controller.cluster.cores
        for decided in self._autoscaler.decide(controller.records, controller.observed, now=controller.engine.now):
            change = cores.rescale(controller.records, decided)
            controller.engine.note(f"rescale {decided.key} to {decided.num_replicas}: {decided.why}")
            saved = apply_change(controller.records, change)
            if not controller.save(saved, change.events, "rescale", judge=partial(_judge, controller, decided)):
                return
            controller.wake(record.key for record in change.saved_deployments)


def _judge(controller: Controller, decided: Rescale) -> None:
    record = controller.cluster.store.records.deployments[decided.key]
    if why := out_of_bounds(record):
        broken(9, f"{decided.key} was scaled by itself, and {why}")


def out_of_bounds(record: DeploymentRecord) -> str:
    """What is wrong with the number of replicas of a deployment that scales by itself; empty if nothing is."""
    policy, size = record.target_spec.autoscaling, record.target_spec.gang.size
    if policy is None:
        return "it does not scale by itself"
    if record.num_replicas % size:
        return f"{record.num_replicas} replicas are no gangs of {size}"
    # A revision that is gone back to may have other gangs than its bounds were made for: then one gang more.
    if not policy.min_replicas <= record.num_replicas < policy.max_replicas + size:
        return f"{record.num_replicas} replicas are not from {policy.min_replicas} to {policy.max_replicas}"
    return ""


def fewest(record: DeploymentRecord) -> int | None:
    """How many replicas a deployment has that nobody calls; None if that does not depend on calls."""
    if not scales(record):
        return None
    policy, size = record.target_spec.autoscaling, record.target_spec.gang.size
    least = policy.min_replicas if policy is not None else 0
    # What was never seen to run, or failed, keeps something that runs; but an operator may have said none.
    is_sound = record.terminal is None and record.last_good == record.target and not record.unproven
    if least == 0 and record.num_replicas and not is_sound:
        return size
    return -(-least // size) * size


def scales(record: DeploymentRecord) -> bool:
    """Whether how many replicas a deployment has depends on calls."""
    if record.target_spec.autoscaling is None or record.deleting:
        return False
    return record.terminal is None or record.last_good not in (None, record.target)


class Queues:
    """What one router tells its controller of the requests that wait in it."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._stream: Stream | None = None
        self._told: dict[DeploymentKey, int] = {}
        self._telling = False

    def subscribed(self, stream: Stream) -> None:
        """There is a subscription; its controller was told nothing yet."""
        self._stream, self._told = stream, {}
        self.changed()

    def changed(self) -> None:
        """A request may have begun to wait."""
        if not self._telling and self._depths():
            self._telling = True
            self._tell()

    def _depths(self) -> dict[DeploymentKey, int]:
        admissions = self._router.admissions
        return {key: len(one.lane.queue) for key, one in admissions.items() if len(one.lane.queue)}

    def _tell(self) -> None:
        router, stream, depths = self._router, self._stream, self._depths()
        controller = router.cluster.controller
        hears = stream is not None and stream.is_open and stream.server is controller
        if hears and depths != self._told:
            assert stream is not None
            assert controller is not None
            self._told = depths
            stream.send(controller, partial(controller.publisher.queued, stream, router, depths))
        self._telling = bool(depths)
        if depths:
            router.later(TOLD_S, self._tell)


class Bounds:
    """Draws between which numbers a deployment scales by itself.

    Args:
        random: Every lot is drawn from it.
    """

    def __init__(self, random: Random) -> None:
        self._random = random

    def drawn(self, spec: DeploymentSpec, *, gangs_most: int) -> DeploymentSpec:
        """The description with bounds, or as it is."""
        return self.changed(spec, gangs_most=gangs_most) if self._random.random() < 0.35 else spec

    def changed(self, spec: DeploymentSpec, *, gangs_most: int) -> DeploymentSpec:
        """The description with other bounds, now and then without any."""
        if spec.autoscaling is not None and self._random.random() < 0.2:
            return replace(spec, autoscaling=None)
        policy = self._a_policy(spec.gang, gangs_most)
        first = max(policy.min_replicas, min(policy.max_replicas, spec.num_replicas))
        return replace(spec, autoscaling=policy, num_replicas=first)

    def _a_policy(self, gang: GangPolicy, gangs_most: int) -> AutoscalingPolicy:
        least = self._random.choice((0, 0, 1, 1, 2))
        most = max(1, least, self._random.randint(1, gangs_most))
        return AutoscalingPolicy(
            min_replicas=min(least, most) * gang.size,
            max_replicas=most * gang.size,
            target_ongoing_requests=self._random.choice((None, 0.5, 1.0, 2.0)),
            look_back_s=self._random.choice((0.5, 2.0)),
            upscale_delay_s=self._random.choice((0.0, 0.0, 2.0)),
            downscale_delay_s=self._random.choice((1.0, 3.0, 6.0)),
        )
