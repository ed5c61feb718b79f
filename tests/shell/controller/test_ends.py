"""The end of a controller, asked for or by a bug, and what the next one takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest

from serve_core.backend.accounting import NodeOffer
from serve_core.errors import DrainingError, NodeUnknownError
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import NodeId
from serve_core.model.replica import ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import ClusterStatus, ConditionType
from serve_core.plan import reconcile
from serve_core.testing import FakeBackend, MemoryStore
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import encode_duration
from tests.shell.controller.rig import (
    PATIENCE_S,
    FakeReplica,
    FakeRouter,
    Rig,
    app,
    controller,
    is_healthy,
    refusal,
    spec,
)


async def test_the_next_controller_takes_over_what_lives() -> None:
    store, backend = MemoryStore(), FakeBackend()
    async with controller(store=store, backend=backend) as rig:
        await rig.deploy(app("app", spec("d", num_replicas=2)))
        first, second = await rig.ready_replica(1), await rig.ready_replica(2)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(first.replica_id, second.replica_id)
        known = router.version
    assert len((await backend.list()).processes) == 2
    async with controller(store=store, backend=backend) as rig:
        router._stub = rig.stub
        await router.subscribe()
        for old in (first, second):
            again = FakeReplica(rig.stub, old.replica_id, old.epoch, old.pid)
            await again.attach(ReplicaPhase.READY)
            assert (await again.next()).HasField("welcome")
        await router.take()
        # The first table of the new life is whole, newer, and not emptier.
        assert set(router.replicas) == {first.replica_id, second.replica_id}
        assert router.version.epoch == known.epoch
        assert router.version.version > known.version
        await rig.watch_until(is_healthy)
    assert len(backend.started) == 2


async def test_what_died_between_two_controllers_is_replaced() -> None:
    store, backend = MemoryStore(), FakeBackend()
    async with controller(store=store, backend=backend) as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        await rig.watch_until(is_healthy)
    backend.exit(f"{first.replica_id}.{first.epoch}")
    async with controller(store=store, backend=backend) as rig:
        second = await rig.ready_replica(2)
        await rig.watch_until(is_healthy)
        assert second.replica_id != first.replica_id


async def test_shutdown_drains_everything_and_ends_the_controller() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await rig.watch_until(is_healthy)
        await rig.stub.Shutdown(controller_pb2.ShutdownRequest())
        assert isinstance(await refusal(rig.deploy(app("late"))), DrainingError)
        assert (await replica.next()).HasField("drain")
        await rig.exit(replica)
        async with asyncio.timeout(PATIENCE_S):
            await rig.life
        assert (await rig.backend.list()).placements == ()


async def test_shutdown_of_nothing_ends_at_once() -> None:
    async with controller() as rig:
        await rig.stub.Shutdown(controller_pb2.ShutdownRequest())
        async with asyncio.timeout(PATIENCE_S):
            await rig.life


async def test_a_stopped_controller_leaves_its_replicas() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        rig.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await rig.life
        assert rig.backend.stopped == []
        assert await replica.ended() is grpc.StatusCode.OK


async def test_a_bug_of_the_planner_stays_with_its_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    real = reconcile.plan

    def buggy(deployment, *args, **kwargs):  # type: ignore[no-untyped-def]
        if deployment.key.application == "sick":
            raise ZeroDivisionError("two lines of story")
        return real(deployment, *args, **kwargs)

    monkeypatch.setattr("serve_core.controller.loop.plan", buggy)
    async with controller() as rig:
        await rig.deploy(app("sick"))
        await rig.deploy(app("well"))
        replica = await rig.ready_replica(1)
        assert replica.replica_id.startswith("well.")

        def told(status: ClusterStatus) -> bool:
            sick = next(one for one in status.applications if one.name == "sick")
            return any(one.reason == "PlannerBug" for one in sick.deployments[0].conditions)

        status = await rig.watch_until(told)
        sick = next(one for one in status.applications if one.name == "sick").deployments[0]
        degraded = next(one for one in sick.conditions if one.type is ConditionType.DEGRADED)
        assert degraded.status
        assert "two lines of story" in degraded.message
        monkeypatch.setattr("serve_core.controller.loop.plan", real)
        assert (await rig.ready_replica(2)).replica_id.startswith("sick.")


async def test_a_bug_elsewhere_ends_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("not pure planning")

    async with controller() as rig:
        monkeypatch.setattr("serve_core.plan.stale.build_part", broken)
        await _deploy_or_lose(rig)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(PATIENCE_S):
                await rig.life


async def _deploy_or_lose(rig: Rig) -> None:
    try:
        await rig.deploy(app())
    except grpc.aio.AioRpcError:
        return


async def test_a_node_is_drained_across_controllers_until_it_is_not_any_more() -> None:
    nodes = [NodeOffer(node_id=NodeId(name), labels={"of": name}, total=Resources(cpus=2.0)) for name in ("n0", "n1")]
    store, backend = MemoryStore(), FakeBackend(nodes)
    async with controller(store=store, backend=backend) as rig:
        request = controller_pb2.DrainNodeRequest(node_id="n1", deadline=encode_duration(3600.0))
        await rig.stub.DrainNode(request)
        assert isinstance(
            await refusal(rig.stub.DrainNode(controller_pb2.DrainNodeRequest(node_id="n9"))), NodeUnknownError
        )
    async with controller(store=store, backend=backend) as rig:
        used, drained = (await rig.status()).nodes
        assert (used.draining, drained.draining, drained.labels) == (False, True, {"of": "n1"})
        assert drained.drain_deadline_time is not None
        await rig.deploy(app("app", spec("d", num_replicas=2, resources=Resources(cpus=1.0))))
        started = await backend.wait_started(2)
        listing = await backend.list()
        assert {process.node_id for process in listing.processes} == {"n0"}, [one.process_id for one in started]
        await rig.deploy(app("app", spec("d", num_replicas=3, resources=Resources(cpus=1.0))))
        await rig.watch_until(
            lambda status: any("lacks" in one.message for one in status.applications[0].deployments[0].conditions)
        )
        await rig.stub.UndrainNode(controller_pb2.UndrainNodeRequest(node_id="n1"))
        await backend.wait_started(3)
        assert not any(node.draining for node in (await rig.status()).nodes)


async def test_who_waits_longest_is_placed_first_also_by_the_next_controller() -> None:
    store, backend = MemoryStore(), FakeBackend([NodeOffer(node_id=NodeId("n"), total=Resources(cpus=3.0))])

    def says(application: str, text: str) -> Callable[[ClusterStatus], bool]:
        def holds(status: ClusterStatus) -> bool:
            conditions = [
                one.conditions for app in status.applications if app.name == application for one in app.deployments
            ]
            return any(text in condition.message for listed in conditions for condition in listed)

        return holds

    async with controller(store=store, backend=backend) as rig:
        await rig.deploy(app("first", spec("d", resources=Resources(cpus=2.0))))
        first = await rig.ready_replica(1)
        gang = spec("d", num_replicas=2, resources=Resources(cpus=1.5), gang=GangPolicy(size=2))
        await rig.deploy(app("gang", gang))
        await rig.watch_until(says("gang", "needs 2 x 1.5 CPUs, there is room for 0 now"))
        await rig.deploy(app("late", spec("d", resources=Resources(cpus=1.0))))
        await rig.watch_until(says("late", "what is free is held for who has waited longer: gang.d"))
    async with controller(store=store, backend=backend) as rig:
        back = FakeReplica(rig.stub, first.replica_id)
        await back.attach(ReplicaPhase.READY)
        await rig.watch_until(says("late", "what is free is held for who has waited longer: gang.d"))
        await rig.stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="first"))
        await rig.exit(back)
        await backend.wait_started(3)
        assert [one.process_id.split(".")[0] for one in backend.started] == ["first", "gang", "gang"]
        await rig.watch_until(says("late", "n lacks 1 CPUs (0 free)"))
