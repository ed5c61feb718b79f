"""A controller and its successor on the same store and backend."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from enum import Enum

import grpc
import grpc.aio
import pytest

from serve_core.backend.port import Placement, PlacementRefused, PlacementRequest, Process, ProcessSpec
from serve_core.controller.executor import parse_process_id
from serve_core.controller.world import Pulse
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.load import Load
from serve_core.model.replica import Method, MethodKind, ReplicaPhase
from serve_core.model.share import Share
from serve_core.model.spec import ApplicationSpec, RolloutPolicy
from serve_core.model.status import ClusterStatus
from serve_core.runtime.supervisor import Supervisor
from serve_core.store.port import Transaction
from serve_core.testing import FakeBackend, MemoryStore
from serve_core.v1 import controller_pb2
from tests.shell.controller.rig import (
    PATIENCE_S,
    POLICY,
    FakeReplica,
    FakeRouter,
    Rig,
    app,
    controller,
    is_healthy,
    spec,
)

KEY = DeploymentKey("app", "d")


async def _serving(store: MemoryStore, backend: FakeBackend, **changes: object) -> list[FakeReplica]:
    """A first life, in which two replicas served."""
    async with controller(store=store, backend=backend) as rig:
        await rig.deploy(app("app", spec("d", num_replicas=2, **changes)))
        replicas = [await rig.ready_replica(1), await rig.ready_replica(2)]
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(*(replica.replica_id for replica in replicas))
        await rig.watch_until(is_healthy)
    return replicas


async def test_the_first_table_is_whole_before_anyone_has_attached() -> None:
    store, backend = MemoryStore(), FakeBackend()
    first, second = await _serving(store, backend)
    async with controller(store=store, backend=backend) as rig:
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.take()
        assert router.replicas == {first.replica_id: first.address, second.replica_id: second.address}
        assert router.routes == {KEY: True}
        assert router.methods == {KEY: (Method("echo", MethodKind.UNARY),)}
        assert len(backend.started) == 2


async def test_who_died_meanwhile_is_not_in_it_and_is_replaced() -> None:
    store, backend = MemoryStore(), FakeBackend()
    first, second = await _serving(store, backend)
    backend.exit(f"{first.replica_id}.1")
    async with controller(store=store, backend=backend) as rig:
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.take()
        assert set(router.replicas) == {second.replica_id}
        third = await rig.ready_replica(3)
        await router.until(second.replica_id, third.replica_id)


async def test_who_does_not_attach_in_time_is_left_out_then_ended_and_replaced() -> None:
    store, backend = MemoryStore(), FakeBackend()
    health = HealthPolicy(heartbeat_period_s=0.01, suspect_after_missed=1, lost_after_missed=2)
    first, second = await _serving(store, backend, health=health)
    impatient = replace(POLICY, patience_s=0.0, reattach_grace_s=1.5)
    async with controller(store=store, backend=backend, policy=impatient) as rig:
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.take()
        assert set(router.replicas) == {first.replica_id, second.replica_id}
        while router.replicas:
            await router.take()
        await rig.replica(4)
        assert {process for process, _ in backend.stopped} == {f"{first.replica_id}.1", f"{second.replica_id}.1"}


async def test_what_a_heartbeat_ends_is_only_a_suspicion() -> None:
    health = HealthPolicy(heartbeat_period_s=1.0, suspect_after_missed=1, lost_after_missed=100_000)
    async with controller(policy=replace(POLICY, patience_s=0.0)) as rig:
        await rig.deploy(app("app", spec("d", health=health)))
        replica = await rig.ready_replica(1)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(replica.replica_id)
        await router.until()
        await replica.heartbeat(1, Load(0, 0, 5))
        await router.until(replica.replica_id)
        assert backend_is_untouched(rig)


def backend_is_untouched(rig: Rig) -> bool:
    return len(rig.backend.started) == 1 and not rig.backend.stopped


# Crashes between any two effects.


class Side(Enum):
    """On which side of an effect the controller dies."""

    BEFORE = "before"
    AFTER = "after"


class Fuse:
    """Counts effects on the world, and lets nothing happen any more from one side of one of them on."""

    def __init__(self, at: int | None = None, side: Side = Side.BEFORE) -> None:
        self._at = at
        self._side = side
        self.count = 0
        self.blown = asyncio.Event()

    async def pass_through(self, side: Side) -> None:
        """To be awaited on each side of each effect."""
        if side is Side.BEFORE and not self.blown.is_set():
            self.count += 1
        if self.count == self._at and side is self._side:
            self.blown.set()
        if self.blown.is_set():
            await asyncio.Event().wait()


class FusedStore(MemoryStore):
    """A store whose commits are effects."""

    fuse = Fuse()

    async def commit(self, transaction: Transaction) -> int:
        await self.fuse.pass_through(Side.BEFORE)
        revision = await super().commit(transaction)
        await self.fuse.pass_through(Side.AFTER)
        return revision


class FusedBackend(FakeBackend):
    """A backend whose every change is an effect; ``changed`` beats at each, and at each change of a router's table."""

    fuse = Fuse()

    def __init__(self) -> None:
        super().__init__()
        self.changed = Pulse()

    def exit(self, process_id: str, exit_code: int | None = 0) -> None:
        super().exit(process_id, exit_code)
        self.changed.beat()

    async def reserve(self, request: PlacementRequest) -> Placement | PlacementRefused:
        await self.fuse.pass_through(Side.BEFORE)
        result = await super().reserve(request)
        self.changed.beat()
        await self.fuse.pass_through(Side.AFTER)
        return result

    async def start(self, spec: ProcessSpec) -> Process:
        await self.fuse.pass_through(Side.BEFORE)
        process = await super().start(spec)
        await self.fuse.pass_through(Side.AFTER)
        return process

    async def stop(self, process_id: str, *, kill: bool) -> None:
        await self.fuse.pass_through(Side.BEFORE)
        await super().stop(process_id, kill=kill)
        await self.fuse.pass_through(Side.AFTER)

    async def free(self, placement_id: str) -> None:
        await self.fuse.pass_through(Side.BEFORE)
        await super().free(placement_id)
        self.changed.beat()
        await self.fuse.pass_through(Side.AFTER)


class Lives:
    """Controllers one after another, on one store and one backend, with replicas and a router that do their part."""

    def __init__(self) -> None:
        self.store = FusedStore()
        self.backend = FusedBackend()
        self.router_version = controller_pb2.TableVersion()
        self.routed: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def life(self, fuse: Fuse) -> AsyncIterator[Rig]:
        """One of them; once the fuse has blown, it is no more."""
        self.store.fuse = self.backend.fuse = fuse
        async with controller(store=self.store, backend=self.backend) as rig, Supervisor("others") as others:
            others.spawn(self._replicas_act(rig, others), name="replicas")
            others.spawn(self._router_acts(rig), name="router")
            others.spawn(self._die(rig, fuse), name="death")
            yield rig
            fuse.blown.set()

    async def _die(self, rig: Rig, fuse: Fuse) -> None:
        await fuse.blown.wait()
        rig.life.cancel()

    async def _replicas_act(self, rig: Rig, others: Supervisor) -> None:
        seen = len(self.backend.started)
        for process in (await self.backend.list()).processes:
            others.spawn(self._replica_acts(rig, process.process_id), name=process.process_id)
        while True:
            await self.backend.wait_started(seen + 1)
            for started in self.backend.started[seen:]:
                others.spawn(self._replica_acts(rig, started.process_id), name=started.process_id)
            seen = len(self.backend.started)

    async def _replica_acts(self, rig: Rig, process_id: str) -> None:
        named = parse_process_id(process_id)
        assert named is not None
        replica = FakeReplica(rig.stub, named[0], named[1])
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await replica.attach(ReplicaPhase.READY)
            while isinstance(command := await replica.call.read(), controller_pb2.AttachResponse):
                if command.HasField("drain") or command.HasField("disown"):
                    await rig.exit(replica)
                    return

    async def _router_acts(self, rig: Rig) -> None:
        router = FakeRouter(rig.stub)
        router.version, router.replicas = self.router_version, self.routed
        with contextlib.suppress(grpc.aio.AioRpcError, AssertionError):
            await router.subscribe()
            while True:
                await router.take()
                self.router_version = router.version
                self.backend.changed.beat()
                await router.acknowledge()


def _application(version: int, num_replicas: int = 2) -> ApplicationSpec:
    rollout = RolloutPolicy(max_surge=Share(1))
    return app("app", spec("d", num_replicas=num_replicas, import_path=f"m:V{version}", rollout=rollout))


async def _roll(rig: Rig) -> None:
    answer = await rig.deploy(_application(2))
    await _until_settled(rig, answer.revisions["d"], 2)


async def _scale_down(rig: Rig) -> None:
    answer = await rig.deploy(_application(1, 1))
    await _until_settled(rig, answer.revisions["d"], 1)


async def _delete(rig: Rig) -> None:
    request = controller_pb2.DeleteApplicationRequest(application="app")
    with contextlib.suppress(grpc.aio.AioRpcError):  # it is gone already, or was never there for this life
        await rig.stub.DeleteApplication(request)
    await rig.watch_until(lambda status: not status.applications)


async def _until_settled(rig: Rig, revision: str, count: int) -> None:
    def is_settled(status: ClusterStatus) -> bool:
        if not is_healthy(status):
            return False
        replicas = status.applications[0].deployments[0].replicas
        in_rotation = [one for one in replicas if one.in_rotation and one.replica.revision == revision]
        return len(in_rotation) == len(replicas) == count

    await rig.watch_until(is_settled)


CHANGES: dict[str, tuple[Callable[[Rig], Awaitable[None]], int]] = {
    "rollout": (_roll, 2),
    "scale-down": (_scale_down, 1),
    "delete": (_delete, 0),
}


async def _effects_of(change: Callable[[Rig], Awaitable[None]], left: int) -> int:
    lives = Lives()
    fuse = Fuse()
    async with lives.life(fuse) as rig:
        await _until_settled(rig, (await rig.deploy(_application(1))).revisions["d"], 2)
        before = fuse.count
        await change(rig)
        await _nothing_is_left_over(lives, left)
        return fuse.count - before


async def _nothing_is_left_over(lives: Lives, left: int) -> None:
    """As many processes and placements as are wanted, and a router that knows exactly them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            seen = lives.backend.changed.count
            listing = await lives.backend.list()
            owned = {process.process_id.rpartition(".")[0] for process in listing.processes}
            if len(listing.processes) == len(listing.placements) == left and set(lives.routed) == owned:
                return
            await lives.backend.changed.after(seen)


async def _crash_and_go_on(change: Callable[[Rig], Awaitable[None]], left: int, at: int, side: Side) -> bool:
    """Whether there was a crash: a change may have a few effects more or less another time."""
    lives = Lives()
    async with lives.life(Fuse()) as rig:
        await _until_settled(rig, (await rig.deploy(_application(1))).revisions["d"], 2)
    fuse = Fuse(at, side)
    async with lives.life(fuse) as rig:
        with contextlib.suppress(grpc.aio.AioRpcError, AssertionError):
            await change(rig)
            await _nothing_is_left_over(lives, left)
        crashed = fuse.blown.is_set()
    async with lives.life(Fuse()) as rig:
        await change(rig)
        await _nothing_is_left_over(lives, left)
    return crashed


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("change", CHANGES)
async def test_a_crash_on_either_side_of_any_effect_is_made_good(change: str, side: Side) -> None:
    work, left = CHANGES[change]
    effects = await _effects_of(work, left)
    assert effects >= 3
    crashes = [await _crash_and_go_on(work, left, at, side) for at in range(1, effects + 1)]
    # How many effects a change has depends on what comes together; every run has at least the first half of them.
    assert all(crashes[: effects // 2]), crashes
