"""Decides how many replicas deployments have that scale by themselves. Pure: what was seen and the time come from outside.

What is asked of a deployment is averaged over ``look_back_s``. It gets more gangs once even the least of these averages of the
last ``upscale_delay_s`` wants more, and fewer once even the greatest of the last ``downscale_delay_s`` wants fewer: so that no
burst and no lull moves it, as with the stabilization windows of Kubernetes
(https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#flapping). The first gang of one that has none is wanted
at once.

Nothing of the past is on record but the number decided upon: after a restart of the controller, or after it was stopped for a
while, the delays begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from serve_core.model.ids import DeploymentKey
from serve_core.plan.bounds import ScaleBounds, bounds_of, is_proven, scales_by_itself
from serve_core.plan.demand import Demand, demand, gangs_wanted
from serve_core.plan.observed import Observed
from serve_core.plan.records import DeploymentRecord, Records
from serve_core.plan.whole import gangs_for
from serve_core.plan.window import Window

PERIOD_S = 1.0
"""Between two looks; as long as a heartbeat's usual period, since what replicas hold is told by heartbeats."""

GAP_S = 10 * PERIOD_S
"""Of a longer time without a look nothing is known: the delays begin anew."""

TOLERANCE = 0.1
"""The share by which what is asked may be off the target and move nothing, as in Kubernetes."""


class Rescale(NamedTuple):
    """A deployment is to have this many replicas, and why in one sentence. It was decided for one that had ``instead_of``."""

    key: DeploymentKey
    num_replicas: int
    instead_of: int
    why: str


@dataclass(slots=True)
class _History:
    """What was asked of one deployment.

    It begins anew where nobody looked for a while, or where somebody else changed the number.

    Attributes:
        num_replicas: How many replicas it was to have at the last look.
        loads: What was asked, over the last ``look_back_s``.
        averages: The averages of that, over the longer of both delays and one before.
    """

    num_replicas: int
    loads: Window = field(default_factory=Window)
    averages: Window = field(default_factory=Window)

    def note(self, load: float, *, now: float, look_back_s: float, keep_s: float) -> None:
        """Takes what is asked now."""
        self.loads.note(load, now=now, keep_s=look_back_s)
        self.averages.note(self.loads.mean(), now=now, keep_s=keep_s)


class Autoscaler:
    """Remembers what was asked of each deployment, for as long as its delays want to know."""

    def __init__(self) -> None:
        self._histories: dict[DeploymentKey, _History] = {}

    def decide(self, records: Records, observed: Observed, *, now: float) -> tuple[Rescale, ...]:
        """Looks at every deployment that scales by itself. Costs their replicas.

        Args:
            records: What is persisted.
            observed: All that was seen. Until the backend was listed, nothing is decided.
            now: Seconds since the Unix epoch.
        """
        if not observed.listed_at:
            return ()
        chosen = [record for record in records.deployments.values() if scales_by_itself(record)]
        self._histories = {
            record.key: self._histories[record.key] for record in chosen if record.key in self._histories
        }
        decided = (
            self._decide(record, demand(record, records.gangs_of(record.key), observed), now) for record in chosen
        )
        return tuple(one for one in decided if one is not None)

    def _decide(self, record: DeploymentRecord, asked: Demand, now: float) -> Rescale | None:
        spec, bounds = record.target_spec, bounds_of(record.target_spec)
        policy = spec.autoscaling
        assert policy is not None
        assert bounds is not None
        load = asked.load(policy.target(spec.max_ongoing_requests))
        history = self._history(record, now)
        history.note(
            load,
            now=now,
            look_back_s=policy.look_back_s,
            keep_s=max(policy.upscale_delay_s, policy.downscale_delay_s),
        )
        wanted = self._wanted(record, history, asked, load, bounds, now=now)
        if wanted == record.wanted:
            return None
        history.num_replicas = wanted
        least, most = policy.min_replicas, policy.max_replicas
        target = policy.target(spec.max_ongoing_requests)
        why = f"autoscaling from {least} to {most}: {asked}, {target:g} each is the target"
        return Rescale(record.key, wanted, record.num_replicas, why)

    def _wanted(
        self,
        record: DeploymentRecord,
        history: _History,
        asked: Demand,
        load: float,
        bounds: ScaleBounds,
        *,
        now: float,
    ) -> int:
        spec = record.target_spec
        policy, size = spec.autoscaling, spec.gang.size
        assert policy is not None
        within = bounds.nearest(record.wanted)
        gangs = gangs_for(within, size=size)

        def replicas_for(load: float) -> int:
            return bounds.nearest(gangs_wanted(spec, load, gangs=gangs, tolerance=TOLERANCE) * size)

        if within == 0:
            return replicas_for(load) if asked.queued else 0
        recent = history.averages.extremes_since(now - policy.upscale_delay_s)
        if recent is not None and (more := replicas_for(recent[0])) > within:
            return more
        recent = history.averages.extremes_since(now - policy.downscale_delay_s)
        least = 0 if is_proven(record) else size
        if recent is not None and (fewer := max(replicas_for(recent[1]), least)) < within:
            return fewer
        return within

    def _history(self, record: DeploymentRecord, now: float) -> _History:
        history = self._histories.get(record.key)
        seen_at = history.averages.newest if history is not None else None
        gap_s = 0.0 if seen_at is None else now - seen_at
        if history is None or history.num_replicas != record.num_replicas or gap_s > GAP_S:
            history = self._histories[record.key] = _History(record.num_replicas)
        return history


def autoscaled(records: Iterable[DeploymentRecord]) -> bool:
    """Whether any of these deployments scales by itself."""
    return any(scales_by_itself(record) for record in records)
