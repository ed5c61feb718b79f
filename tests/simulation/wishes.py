"""What an operator may want of a deployment: gangs of every kind, on nodes with or without certain labels, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from serve_core.model.actor import ActorOnFailure, ActorSharing, ActorSpec
from serve_core.model.gang import GangPolicy, GangRoute, OnMemberFailure, Strategy
from serve_core.model.ids import DeploymentKey
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import DeploymentSpec, OnFailure, RolloutPolicy
from tests.simulation.autoscaling import Bounds

T = TypeVar("T")

SIZES = (1, 1, 1, 1, 2, 2, 3, 4)
ACTORS = (0, 0, 0, 1, 1, 2)
"""How many actors a deployment may have, those lots that are drawn more often first."""
GANGS_MAX = {1: 4, 2: 3, 3: 2, 4: 2}
"""The most gangs of each size that are wanted of one deployment."""
REPLICAS_MAX = max(size * count for size, count in GANGS_MAX.items())
SHARES = (Share(0), Share(1), Share(25, percent=True), Share(50, percent=True))
POOL = {"pool": "a"}


def a_spec(name: str, import_path: str, **changes: object) -> DeploymentSpec:
    """A deployment with patience that fits the length of a simulation."""
    spec = DeploymentSpec(
        name=name,
        import_path=import_path,
        num_replicas=2,
        resources=Resources(cpus=1.0),
        max_ongoing_requests=3,
        graceful_shutdown_timeout_s=8.0,
        start_deadline_s=10.0,
        max_start_failures=2,
        rollout=RolloutPolicy(progress_deadline_s=60.0),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def behaviour_of(what: DeploymentSpec | ActorSpec) -> str:
    """How user code behaves, as its import path says."""
    return what.import_path.partition(":")[2].partition("_")[0]


class Wishes:
    """Draws what is wanted. A deployment keeps its kind of gang for a while.

    Args:
        random: Every lot is drawn from it.
        nodes: How many there are, so that what needs distinct nodes can mostly be had.
        pooled: Whether some of them are labelled.
        bounds: Draws which deployments scale by themselves.
    """

    def __init__(self, random: Random, *, nodes: int, pooled: bool, bounds: Bounds) -> None:
        self._random = random
        self._bounds = bounds
        self._nodes = nodes
        self._pooled = pooled
        self._gangs: dict[DeploymentKey, GangPolicy] = {}
        self._actors: dict[DeploymentKey, tuple[ActorSpec, ...]] = {}
        self._actors_made = 0

    def deployment(self, key: DeploymentKey, import_path: str, *, behaviours: Sequence[str]) -> DeploymentSpec:
        """Another revision, often with the same kind of gang and the same actors; new ones behave in one of these ways."""
        kept = self._gangs.get(key)
        gang = kept if kept is not None and self._random.random() < 0.6 else self._a_gang()
        self._gangs[key] = gang
        rollout = RolloutPolicy(
            max_surge=self._one_of(SHARES),
            max_unavailable=self._one_of(SHARES),
            min_ready_s=self._one_of((0.0, 1.0)),
            progress_deadline_s=60.0,
            pause_at=self._one_of((None, None, None, Share(50, percent=True))),
            on_failure=self._one_of((OnFailure.ROLLBACK, OnFailure.ROLLBACK, OnFailure.HOLD)),
            max_concurrent_starts=self._one_of((0, 0, 4)) if gang.size > 1 else self._one_of((0, 0, 1)),
        )
        spec = a_spec(
            key.deployment,
            import_path,
            num_replicas=self.num_replicas(gang, least=1),
            rollout=rollout,
            gang=gang,
            actors=self._some_actors(key, behaviours),
            node_labels=POOL if self._pooled and self._random.random() < 0.2 else {},
            bundles=(Resources(cpus=0.5),) if self._random.random() < 0.1 else (),
        )
        return self._bounds.drawn(spec, gangs_most=GANGS_MAX[gang.size])

    def in_place(self, spec: DeploymentSpec) -> DeploymentSpec:
        """The same revision with other settings."""
        gang = spec.gang
        if gang.size > 1 and self._random.random() < 0.5:
            gang = replace(
                gang,
                route=self._one_of(list(GangRoute)),
                on_member_failure=self._one_of(list(OnMemberFailure)),
                abort_in_flight=self._random.random() < 0.3,
            )
        spec = replace(spec, gang=gang, max_ongoing_requests=self._random.randint(2, 4))
        return self._bounds.changed(spec, gangs_most=GANGS_MAX[gang.size]) if spec.autoscaling is not None else spec

    def num_replicas(self, gang: GangPolicy, *, least: int = 0) -> int:
        """A number of whole gangs."""
        return gang.size * self._random.randint(least, GANGS_MAX[gang.size])

    def _some_actors(self, key: DeploymentKey, behaviours: Sequence[str]) -> tuple[ActorSpec, ...]:
        kept, lot = self._actors.get(key), self._random.random()
        if kept is None or lot < 0.3 or any(behaviour_of(actor) not in behaviours for actor in kept):
            count = self._one_of(ACTORS)
            kept = tuple(self._an_actor(f"actor{at}", behaviours) for at in range(count))
        elif kept and lot < 0.6:
            kept = (*kept[:-1], self._an_actor(kept[-1].name, behaviours))
        self._actors[key] = kept
        return kept

    def _an_actor(self, name: str, behaviours: Sequence[str]) -> ActorSpec:
        self._actors_made += 1
        behaviour = self._one_of(behaviours) if self._random.random() < 0.3 else "good"
        on_failure = self._one_of(list(ActorOnFailure))
        restores = on_failure is ActorOnFailure.RESTART_FROM_SNAPSHOT
        return ActorSpec(
            name=name,
            import_path=f"app:{behaviour}_actor_{self._actors_made}",
            resources=Resources(cpus=0.5),
            start_deadline_s=10.0,
            max_restarts=self._one_of((5, 5, 1)),
            on_failure=on_failure,
            snapshot_interval_s=self._one_of((0.0, 1.5)) if restores else 0.0,
            shared=self._one_of(list(ActorSharing)),
        )

    def _a_gang(self) -> GangPolicy:
        size = self._one_of(SIZES)
        placement = self._one_of(list(Strategy))
        if placement is Strategy.STRICT_SPREAD and size > self._nodes and self._random.random() < 0.9:
            placement = Strategy.SPREAD
        return GangPolicy(
            size=size,
            placement=placement,
            on_member_failure=self._one_of(list(OnMemberFailure)),
            start_deadline_s=self._one_of((None, None, 12.0)),
            max_restarts=self._one_of((10, 10, 2)),
            route=self._one_of(list(GangRoute)),
            abort_in_flight=self._random.random() < 0.2,
        )

    def _one_of(self, things: Sequence[T]) -> T:
        return things[self._random.randrange(len(things))]
