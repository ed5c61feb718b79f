"""The streams of replicas and routers: who may speak to the controller, and what the loss of one means."""

from __future__ import annotations

import grpc
import grpc.aio

from serve_core.model.load import Load
from serve_core.model.replica import ReplicaPhase
from serve_core.v1 import controller_pb2
from tests.shell.controller.rig import FakeReplica, FakeRouter, app, controller, is_healthy, spec


async def test_a_lost_stream_alone_restarts_nothing() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(replica.replica_id)
        replica.lose()
        await replica.attach(ReplicaPhase.READY)
        assert (await replica.next()).HasField("welcome")
        await rig.watch_until(is_healthy)
        assert len(rig.backend.started) == 1


async def test_heartbeats_are_acknowledged_and_tell_the_load() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await replica.heartbeat(7, Load(3, 1, 5))
        assert (await replica.next()).heartbeat_ack.sequence == 7
        status = await rig.status()
        assert status.applications[0].deployments[0].replicas[0].load == Load(3, 1, 5)


async def test_a_heartbeat_that_needs_no_answer_gets_none_and_is_heard() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await replica.heartbeat(7, Load(3, 1, 5), unanswered=True)
        await replica.heartbeat(8, Load(3, 1, 5))
        assert (await replica.next()).heartbeat_ack.sequence == 8
        status = await rig.status()
        assert status.applications[0].deployments[0].replicas[0].load == Load(3, 1, 5)


async def test_who_is_not_known_is_disowned() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        known = await rig.replica(1)
        for stranger in (
            FakeReplica(rig.stub, "app.d.other-0"),
            FakeReplica(rig.stub, known.replica_id, epoch=known.epoch + 1),
        ):
            await stranger.attach()
            assert (await stranger.next()).disown.message
            assert await stranger.ended() is grpc.StatusCode.OK


async def test_a_second_process_of_one_name_is_disowned_and_the_first_stays() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        second = FakeReplica(rig.stub, first.replica_id, first.epoch, pid=first.pid + 1)
        await second.attach()
        assert str(first.pid) in (await second.next()).disown.message
        await first.heartbeat(1, Load())
        assert (await first.next()).HasField("heartbeat_ack")


async def test_the_same_process_may_attach_again_before_its_old_stream_is_found_dead() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        again = FakeReplica(rig.stub, first.replica_id, first.epoch, first.pid)
        await again.attach(ReplicaPhase.READY)
        assert (await again.next()).HasField("welcome")
        assert await first.ended() is grpc.StatusCode.OK
        await rig.watch_until(is_healthy)


async def test_a_stream_must_begin_with_a_hello() -> None:
    async with controller() as rig:
        call = rig.stub.Attach()
        await call.write(controller_pb2.AttachRequest(heartbeat=controller_pb2.Heartbeat(sequence=1)))
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        watch = rig.stub.WatchEndpoints()
        await watch.write(controller_pb2.WatchEndpointsRequest())
        assert await watch.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_silent_stream_is_ended() -> None:
    async with controller(hello_timeout_s=0.01) as rig:
        assert await rig.stub.Attach().code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_router_that_comes_back_gets_only_what_changed() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d", num_replicas=2)))
        first, second = await rig.ready_replica(1), await rig.ready_replica(2)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(first.replica_id, second.replica_id)
        router.lose()
        await rig.exit(first)
        third = await rig.ready_replica(3)
        await router.subscribe()
        await router.until(second.replica_id, third.replica_id)
        assert router.snapshots == 1


async def test_a_router_that_leaves_in_good_order_is_not_waited_for() -> None:
    async with controller() as rig:
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.take()
        await rig.watch_until(lambda status: len(status.routers) == 1)
        await router.leave()
        await rig.watch_until(lambda status: not status.routers)
