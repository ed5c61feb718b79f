"""A controller's loop and table over many replicas that all serve, with nothing but the store's and the executor's effects
left out: to count what an event costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

from serve_core.controller.executor import Executor
from serve_core.controller.loop import ReconcileLoop
from serve_core.controller.persistence import RecordStore
from serve_core.controller.publisher import Publisher
from serve_core.controller.world import World
from serve_core.model.ids import DeploymentKey, NodeId, ReplicaId, RouterId, gang_id, replica_id
from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.plan.actions import Action, ReservePlacement
from serve_core.plan.deploy import deploy
from serve_core.plan.events import (
    AttachOpened,
    BackendListed,
    HeartbeatSeen,
    NodesSeen,
    PlacementReserved,
    ProcessExited,
    RouterAcknowledged,
    RouterSubscribed,
)
from serve_core.plan.observed import NodeObserved
from serve_core.plan.policy import Policy
from serve_core.plan.records import (
    ApplicationRecord,
    Bundle,
    ClusterRecord,
    DeploymentRecord,
    GangRecord,
    MemberRecord,
    Records,
    RevisionRecord,
)
from serve_core.plan.revision import config_version, revision_id
from serve_core.testing import FakeClock, MemoryStore

ROUTER = RouterId("router")
NODES = 16


class Fleet:
    """``deployments`` deployments of ``replicas`` replicas each, every one an application of its own.

    Whatever happens is planned and published to the end before a method returns; the router acknowledges at once.
    """

    def __init__(self, *, deployments: int, replicas: int, store: MemoryStore | None = None) -> None:
        self.clock = FakeClock(1000.0)
        self.actions: list[Action] = []
        records = _records(deployments, replicas)
        self.store = RecordStore(store or MemoryStore())
        self.world = World(cluster=ClusterRecord(epoch="e"), records=records, now=self.clock, policy=Policy())
        self.publisher = Publisher(self.world, self.store, policy=Policy(), hello_timeout_s=1.0)
        self.loop = ReconcileLoop(
            world=self.world,
            store=self.store,
            executor=cast("Executor", self),
            table_facts=self.publisher.facts,
            policy=Policy(),
            unit_random=lambda: 0.5,
        )
        self.publisher.listen(self.loop.wake)

    def submit(self, actions: Iterable[Action]) -> None:
        """Takes actions for done, and does nothing."""
        self.actions += actions

    async def start(self) -> None:
        """Lets all of them attach, and the router have its table."""
        world, now = self.world, self.clock()
        world.cluster = await self.store.load_cluster(new_epoch="e")
        await self.store.save(Records(), world.records)
        nodes = tuple(NodeObserved(node_id=_node(index), total=Resources(cpus=2_000.0)) for index in range(NODES))
        world.tell(NodesSeen(nodes=nodes, now=now))
        for gang in world.records.gangs.values():
            world.tell(PlacementReserved(gang_id=gang.gang_id, now=now))
            for member in gang.members:
                self._attach(member.replica_id)
        world.tell(BackendListed(now=now))
        world.tell(RouterSubscribed(router_id=ROUTER, address="r:1", http_address="", acknowledged=None, now=now))
        self.loop.start()
        await self.settle()
        self.actions.clear()

    def _attach(self, replica: ReplicaId) -> None:
        owner = self.world.records.owner_of(replica)
        assert owner is not None
        spec = self.world.records.deployments[owner[0].key].target_spec
        report = ReplicaReport(phase=ReplicaPhase.READY, address="h:1", load=Load(0, 0, 5))
        self.world.tell(
            AttachOpened(
                replica_id=replica, epoch=1, pid=1, report=report, config=config_version(spec), now=self.clock()
            )
        )

    async def settle(self) -> None:
        """Plans and publishes until nothing is left to do."""
        while True:
            version = self.publisher.version
            await self.loop.plan_due()
            await self.publisher.publish()
            if self.publisher.version != version:
                self.world.tell(
                    RouterAcknowledged(router_id=ROUTER, acknowledged=self.publisher.version, now=self.clock())
                )
            elif not self.loop.is_due:
                return

    def replica(self, deployment: int = 0, index: int = 0) -> ReplicaId:
        """One of them."""
        return replica_id(gang_id(_key(deployment), f"{index:05d}"), 0)

    def beat(self, replica: ReplicaId) -> None:
        """A heartbeat, which nobody has to plan for."""
        self.world.tell(HeartbeatSeen(replica_id=replica, epoch=1, load=Load(1, 0, 5), now=self.clock()))

    async def kill(self, replica: ReplicaId) -> None:
        """A process ends."""
        self.world.tell(ProcessExited(replica_id=replica, epoch=1, exit_code=-9, now=self.clock()))
        await self.settle()

    async def replace(self) -> None:
        """What was to be started last is placed, and becomes ready."""
        gang = next(action.gang_id for action in reversed(self.actions) if isinstance(action, ReservePlacement))
        self.world.tell(PlacementReserved(gang_id=gang, now=self.clock()))
        await self.settle()
        self._attach(replica_id(gang, 0))
        await self.settle()

    async def silence(self, replica: ReplicaId) -> None:
        """Everyone is heard of but one, which is a second from being suspect; the others were looked at just now."""
        self.clock.advance(1.0)
        self.beat(replica)
        self.clock.advance(2.0)
        for gang in self.world.records.gangs.values():
            for member in gang.members:
                if member.replica_id != replica:
                    self.beat(member.replica_id)
        await self.settle()

    async def pass_second(self) -> None:
        """Time goes on."""
        self.clock.advance(1.0)
        await self.settle()

    async def come_back(self, replica: ReplicaId) -> None:
        """One is heard of again."""
        self.beat(replica)
        await self.settle()

    async def deploy(self, name: str, *, replicas: int) -> None:
        """One more application."""
        spec = ApplicationSpec(name=name, ingress="d", deployments=(_spec("d", replicas),))
        await self.loop.change(lambda records: deploy(records, spec, now=self.clock()))
        await self.settle()


def run(work: object) -> None:
    """Runs a coroutine to its end."""
    asyncio.run(work)  # type: ignore[arg-type]


def _key(deployment: int) -> DeploymentKey:
    return DeploymentKey(f"app{deployment}", "d")


def _node(index: int) -> NodeId:
    return NodeId(f"node-{index}")


def _spec(name: str, replicas: int) -> DeploymentSpec:
    return DeploymentSpec(name=name, import_path="m:A", num_replicas=replicas, resources=Resources(cpus=0.1))


def _records(deployments: int, replicas: int) -> Records:
    spec = _spec("d", replicas)
    revision = revision_id(spec)
    keys = [_key(number) for number in range(deployments)]
    return Records(
        applications={
            key.application: ApplicationRecord(name=key.application, ingress="d", generation=1) for key in keys
        },
        deployments={
            key: DeploymentRecord(
                key=key,
                generation=1,
                target=revision,
                last_good=revision,
                num_replicas=replicas,
                revisions=(RevisionRecord(revision=revision, spec=spec, created_at=1.0),),
            )
            for key in keys
        },
        gangs={gang.gang_id: gang for key in keys for index in range(replicas) for gang in (_gang(key, index, spec),)},
    )


def _gang(key: DeploymentKey, index: int, spec: DeploymentSpec) -> GangRecord:
    name = gang_id(key, f"{index:05d}")
    member = MemberRecord(
        replica_id=replica_id(name, 0),
        rank=0,
        phase=ReplicaPhase.READY,
        phase_since=2.0,
        bundle=Bundle(node_id=_node(index % NODES), resources=spec.resources),
    )
    return GangRecord(
        gang_id=name,
        key=key,
        revision=revision_id(spec),
        phase=ReplicaPhase.READY,
        phase_since=2.0,
        created_at=1.0,
        members=(member,),
    )
