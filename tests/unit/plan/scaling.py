"""A small world in which a deployment scales by itself, under a load that a test sets."""

from __future__ import annotations

from collections.abc import Mapping

from serve_core.model.autoscaling import AutoscalingPolicy
from serve_core.model.ids import DeploymentKey, NodeId, ReplicaId
from serve_core.model.load import Load
from serve_core.model.resources import Resources
from serve_core.model.spec import DeploymentSpec
from serve_core.plan import deploy, events
from serve_core.plan.autoscaler import PERIOD_S, Autoscaler, Rescale
from serve_core.plan.observed import NodeObserved
from tests.unit.plan.world import KEY, World, a_spec

POLICY = AutoscalingPolicy(
    min_replicas=1,
    max_replicas=8,
    target_ongoing_requests=2.0,
    look_back_s=2.0,
    upscale_delay_s=4.0,
    downscale_delay_s=30.0,
)


def scaling_spec(policy: AutoscalingPolicy = POLICY, **changes: object) -> DeploymentSpec:
    changes = {"num_replicas": policy.first_replicas(size=1), **changes}
    return a_spec(autoscaling=policy, resources=Resources(cpus=0.5), **changes)


class ScalingWorld(World):
    """``running`` and ``reserved`` are shared by the replicas that take calls; ``waiting`` waits in the router."""

    def __init__(self, spec: DeploymentSpec, *, nodes: int = 4, behaviour: str = "ready") -> None:
        super().__init__(
            nodes=tuple(NodeObserved(node_id=NodeId(f"n{at}"), total=Resources(cpus=8.0)) for at in range(nodes))
        )
        self.running = 0
        self.reserved = 0
        self.waiting = 0
        self.decided: list[Rescale] = []
        self.autoscaler = Autoscaler()
        self.behaviour[spec.import_path] = behaviour
        self.add_router()
        self.deploy(spec)
        self.settle()

    @property
    def num_replicas(self) -> int:
        return self.record().num_replicas

    def look(self) -> None:
        """Everybody tells what is asked, and the autoscaler looks once."""
        self._share()
        for router_id in self.routers:
            queued: Mapping[DeploymentKey, int] = {KEY: self.waiting} if self.waiting else {}
            self.tell(events.RouterQueued(router_id=router_id, queued=queued, now=self.now))
        self.settle()
        for decided in self.autoscaler.decide(self.records, self.observed, now=self.now):
            self.decided.append(decided)
            self.change(deploy.rescale(self.records, decided))
        self.settle()

    def scale_for(self, seconds: float) -> None:
        """Looks once in a while."""
        end = self.now + seconds
        while self.now < end:
            self.look()
            self.advance(PERIOD_S)

    def next_controller(self) -> None:
        """Another controller begins, to which nobody has attached yet."""
        self.restart_controller()
        self.autoscaler = Autoscaler()
        self.reconnect_routers()

    def _share(self) -> None:
        for process in self.processes.values():
            process.load = Load(0, 0, process.action.spec.max_ongoing_requests)
        ready = sorted(self.ready_members())
        for at, replica_id in enumerate(ready):
            process = self.processes[replica_id]
            ongoing, reserved = ((total + at) // len(ready) for total in (self.running, self.reserved))
            process.load = Load(ongoing, reserved, process.action.spec.max_ongoing_requests)

    def ready_members(self) -> list[ReplicaId]:
        """The replicas that take calls."""
        routed = (replica_id for router in self.routers.values() for replica_id in router.replicas)
        return [replica_id for replica_id in routed if replica_id in self.processes]
