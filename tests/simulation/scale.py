"""Many replicas that serve, and one change at a time: what it costs is counted, and compared between few and many.

A heartbeat takes an hour here, so that nothing but the change happens; what looks at everything does so now and then, and
at every rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.spec import ApplicationSpec
from serve_core.plan import deploy
from serve_core.plan.deploy import Change
from serve_core.plan.records import Records
from tests.simulation.cluster import Cluster
from tests.simulation.cores import Cores
from tests.simulation.engine import Violation
from tests.simulation.rest import unrest
from tests.simulation.wishes import a_spec
from tests.simulation.workload import Workload

SMALL = 10
NODE_CPUS = 128.0
SPARE_CPUS = 64
HEARTBEAT_S = 3600.0
TICK_S = 5.0
WINDOW_S = 45.0
"""Longer than every patience that a change may have to wait for."""
START_S = 300.0
PROBES = 5

Counts = dict[str, int]


class ScaledWorld:
    """Deployments of one size, all of whose replicas are ready and routed to once it is made.

    One deployment's share of the replicas is split into deployments of 10, so that every world has some of those.

    Args:
        seed: Everything random comes from it.
        replicas: Of all deployments together.
        size: Replicas of a deployment.
        routers: How many there are.
        checks_every: What looks at everything there is does so at one occasion of so many.
        cores: What decides.

    Raises:
        Violation: They do not come to rest.
    """

    def __init__(
        self,
        seed: int,
        *,
        replicas: int,
        size: int = SMALL,
        routers: int = 2,
        checks_every: int = 100,
        cores: Cores | None = None,
    ) -> None:
        nodes = math.ceil((replicas + SPARE_CPUS) / NODE_CPUS)
        cpus = (NODE_CPUS,) * nodes
        self.cluster = Cluster(seed, cores=cores, cpus=cpus, calm=True, checks_every=checks_every)
        self.cluster.heartbeat_s = HEARTBEAT_S
        sizes = [SMALL] * (size // SMALL) + [size] * (replicas // size - 1)
        self._sizes = {DeploymentKey(f"app{number}", "main"): wanted for number, wanted in enumerate(sizes)}
        self._workload = Workload(self.cluster, tuple(self._sizes), per_second=1.0)
        self.cluster.start_controller()
        for _ in range(routers):
            self.cluster.add_router()
        for key in self._sizes:
            self.deploy(key, "app:good_1")
        self._pass_time(START_S)
        self._rest()

    @property
    def replicas(self) -> int:
        """How many run."""
        return len(self.cluster.backend.processes)

    def cost(self, change: Callable[[ScaledWorld], None]) -> Counts:
        """What a change costs until everything rests again, and for a while after.

        Raises:
            Violation: A promise was broken, or there is no rest.
        """
        costs = self.cluster.costs
        costs.restart()
        change(self)
        self._pass_time(WINDOW_S)
        counts = costs.counts()
        self._rest()
        return counts

    def deploy(self, key: DeploymentKey, import_path: str) -> None:
        """Deploys the application of a deployment, with this code."""
        health = HealthPolicy(heartbeat_period_s=HEARTBEAT_S)
        spec = a_spec(key.deployment, import_path, num_replicas=self._sizes[key], health=health)
        application = ApplicationSpec(name=key.application, ingress=key.deployment, deployments=(spec,))
        self.ask(partial(deploy.deploy, spec=application, now=self.cluster.engine.now))

    def ask(self, decide: Callable[[Records], Change]) -> None:
        """Changes what is wanted."""
        assert self.cluster.controller is not None
        assert self.cluster.controller.change(decide)

    def at(self, number: int) -> DeploymentKey:
        """A deployment: the first are of 10 replicas, the last of the size of the world's deployments."""
        return list(self._sizes)[number]

    def _pass_time(self, seconds: float) -> None:
        engine = self.cluster.engine
        end = engine.now + seconds
        while engine.now < end:
            engine.run(min(end, engine.now + TICK_S))
            self.cluster.checks.tick()

    def _rest(self) -> None:
        self.cluster.checks.everything()
        if why := unrest(self.cluster):
            raise Violation(f"invariant 7: no rest with {self.replicas} replicas: {why}")
        unconnected = [
            upstream.replica.replica_id
            for router in self.cluster.routers.values()
            for upstream in router.upstreams.values()
            if upstream.stream is None or not upstream.stream.is_open
        ]
        if unconnected:
            raise Violation(f"invariant 7: routers are not connected to {unconnected[:5]}")
        self._serves()
        for process in self.cluster.backend.processes.values():
            process.slots.check_rest()

    def _serves(self) -> None:
        keys = list(self._sizes)
        calls = [self._workload.probe(key) for key in (*keys[:PROBES], *keys[-PROBES:])]
        self.cluster.engine.run(self.cluster.engine.now + 1.0)
        if any(call is None or call.error is not None or not call.over for call in calls):
            raise Violation("invariant 7: at rest a call fails")


def nothing(world: ScaledWorld) -> None:
    """Time passes."""


def rolls(world: ScaledWorld) -> None:
    """A deployment of 10 becomes another revision."""
    world.deploy(world.at(0), "app:good_2")


def scales(world: ScaledWorld) -> None:
    """A deployment of 10 gets two more, which it keeps."""
    key = world.at(1) if len(world.cluster.store.records.deployments) > 1 else world.at(0)
    world.ask(partial(deploy.scale, key=key, num_replicas=SMALL + 2))


def dies(world: ScaledWorld) -> None:
    """A replica of the last deployment dies."""
    world.cluster.calm = False
    gang = world.cluster.store.records.gangs_of(world.at(-1))[0]
    process = world.cluster.backend.process_of(gang.members[0].replica_id)
    assert process is not None
    process.faults.append("killed")
    process.end(-9)


def changes_routers(world: ScaledWorld) -> None:
    """A router dies, and another comes."""
    world.cluster.calm = False
    world.cluster.kill_router(next(iter(world.cluster.routers.values())))
    world.cluster.engine.later(1.0, world.cluster.restart_router)


def crashes(world: ScaledWorld) -> None:
    """The controller dies, and the next one recovers."""
    world.cluster.calm = False
    assert world.cluster.controller is not None
    world.cluster.controller.crash()


CHANGES: dict[str, Callable[[ScaledWorld], None]] = {
    "nothing happens": nothing,
    "10 roll": rolls,
    "10 scale to 12": scales,
    "a replica dies": dies,
    "a router is replaced": changes_routers,
    "the controller crashes": crashes,
}
"""In this order: in the first, nothing fails."""

LOCAL = ("nothing happens", "10 roll", "10 scale to 12", "a replica dies")
"""Changes that are about one deployment."""


def costs(seed: int, *, replicas: int, size: int) -> dict[str, Counts]:
    """What each change costs in one world, one after the other."""
    world = ScaledWorld(seed, replicas=replicas, size=size)
    return {name: world.cost(change) for name, change in CHANGES.items()}


def table(scaled: Sequence[int], sizes: Iterable[int], *, seed: int) -> Iterable[str]:
    """For people: the costs at each scale, and how often the last is the first."""
    for size in sizes:
        at = [costs(seed, replicas=replicas, size=size) for replicas in scaled]
        yield f"deployments of {size}: {', '.join(f'{replicas:,}' for replicas in scaled)} replicas, and the ratio"
        names = list(at[0][next(iter(CHANGES))])
        yield f"{'':24}" + "".join(f"{name:>26}" for name in names)
        for change in CHANGES:
            yield f"{change:24}" + "".join(f"{_cell([one[change][name] for one in at]):>26}" for name in names)


def _cell(counts: Sequence[int]) -> str:
    ratio = f"{counts[-1] / counts[0]:.2f}" if counts[0] else "-"
    return f"{' '.join(f'{count:,}' for count in counts)}  x{ratio}"
