"""The whole controller over real gRPC, with fake replicas, routers and processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.backend.accounting import NodeOffer
from serve_core.errors import (
    ConfigInvalidError,
    DeploymentUnknownError,
    DrainingError,
    NodeUnknownError,
    RevisionConflictError,
)
from serve_core.model.gang import GangPolicy
from serve_core.model.ids import NodeId
from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import ClusterStatus, ConditionType, DeploymentState
from serve_core.plan import reconcile
from serve_core.runtime.supervisor import Supervisor
from serve_core.testing import FakeBackend, MemoryStore
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import decode_duration, encode_duration
from serve_core.wire.replica import decode_replica
from serve_core.wire.spec import decode_deployment_spec
from tests.shell.controller.rig import PATIENCE_S, POLICY, FakeReplica, FakeRouter, Rig, app, controller, refusal, spec


def _is_healthy(status: ClusterStatus) -> bool:
    states = [one.state for application in status.applications for one in application.deployments]
    return bool(states) and set(states) == {DeploymentState.HEALTHY}


def _is_empty(status: ClusterStatus) -> bool:
    return not status.applications


async def test_a_deployment_is_started_welcomed_and_published() -> None:
    async with controller() as rig:
        wanted = spec("d", metadata={"who": "me"})
        answer = await rig.deploy(app("app", wanted))
        assert answer.generation == 1
        replica = await rig.replica(1)
        await replica.attach()
        welcome = (await replica.next()).welcome
        assert decode_deployment_spec(welcome.spec) == wanted
        who = decode_replica(welcome.replica)
        assert (who.replica_id, who.key, who.node_id) == (replica.replica_id, ("app", "d"), "node-0")
        assert (who.revision, who.metadata) == (answer.revisions["d"], {"who": "me"})
        assert decode_duration(welcome.heartbeat_period) == wanted.health.heartbeat_period_s
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await replica.report(ReplicaPhase.READY)
        await router.until(replica.replica_id)
        assert router.replicas == {replica.replica_id: replica.address}
        assert router.routes == {("app", "d"): True}
        status = await rig.watch_until(_is_healthy)
        shown = status.applications[0].deployments[0].replicas[0]
        assert (shown.phase, shown.pid, shown.replica.address) == (ReplicaPhase.READY, replica.pid, replica.address)
        assert status.nodes[0].used == Resources(cpus=0.5)
        assert [one.router_id for one in status.routers] == [router.router_id]


async def test_what_dies_is_withdrawn_at_once_and_replaced() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d", num_replicas=2)))
        first, second = await rig.ready_replica(1), await rig.ready_replica(2)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(first.replica_id, second.replica_id)
        await rig.exit(first, -9)
        await router.until(second.replica_id)
        third = await rig.ready_replica(3)
        assert third.replica_id not in (first.replica_id, second.replica_id)
        await router.until(second.replica_id, third.replica_id)
        status = await rig.watch_until(_is_healthy)
        assert "signal 9" in status.applications[0].deployments[0].failures[0].message


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
        await rig.watch_until(_is_healthy)
        assert len(rig.backend.started) == 1


async def test_routers_leave_before_a_replica_is_told_to_drain() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d", graceful_shutdown_timeout_s=7.0)))
        replica = await rig.ready_replica(1)
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.until(replica.replica_id)
        await rig.stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="app"))
        await router.until(acknowledging=False)
        # Commands come in order: had the drain been sent before the acknowledgement, it would be first.
        await replica.heartbeat(1, Load(1, 0, 5))
        assert (await replica.next()).heartbeat_ack.sequence == 1
        await router.acknowledge()
        drain = (await replica.next()).drain
        assert decode_duration(drain.budget) == 7.0
        await replica.report(ReplicaPhase.DRAINING)
        await rig.exit(replica)
        status = await rig.watch_until(_is_empty)
        assert status.nodes[0].used == Resources()
        assert (await rig.backend.list()).placements == ()


async def test_without_routers_a_drain_waits_for_nobody() -> None:
    async with controller(policy=replace(POLICY, router_lease_s=0.0)) as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
        await rig.stub.ScaleDeployment(
            controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=0)
        )
        assert (await replica.next()).HasField("drain")
        await rig.exit(replica)
        await rig.watch_until(lambda status: not status.applications[0].deployments[0].replicas)


async def test_heartbeats_are_acknowledged_and_tell_the_load() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await replica.heartbeat(7, Load(3, 1, 5))
        assert (await replica.next()).heartbeat_ack.sequence == 7
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
        await rig.watch_until(_is_healthy)


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


async def test_a_start_that_fails_is_told_with_its_traceback_and_given_up() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d", max_start_failures=2)))
        failure = Failure(reason="CONSTRUCTOR_FAILED", message="boom", traceback="Traceback: boom", time=1.0)
        for number in (1, 2):
            replica = await rig.replica(number)
            await replica.attach()
            await replica.next()
            await replica.report(ReplicaPhase.STOPPING, failure)
            await rig.exit(replica, 1)
        status = await rig.watch_until(
            lambda status: status.applications[0].deployments[0].state is DeploymentState.DEPLOY_FAILED
        )
        shown = status.applications[0].deployments[0]
        assert shown.failures[0].traceback == "Traceback: boom"
        router = FakeRouter(rig.stub)
        await router.subscribe()
        await router.take()
        assert router.routes == {("app", "d"): False}


async def test_what_does_not_fit_is_said() -> None:
    async with controller() as rig:
        await rig.deploy(app("app", spec("d", resources=Resources(cpus=100.0))))

        def waits(status: ClusterStatus) -> bool:
            return any("100 CPUs" in one.message for one in status.applications[0].deployments[0].conditions)

        await rig.watch_until(waits)
        assert rig.backend.started == []


async def test_room_that_appears_is_used() -> None:
    async with controller() as rig:
        await rig.deploy(app("big", spec("d", resources=Resources(cpus=8.0))))
        big = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
        await rig.deploy(app("small"))
        await rig.watch_until(lambda status: len(status.applications) == 2)
        await rig.stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="big"))
        await big.next()
        await rig.exit(big)
        small = await rig.ready_replica(2)
        assert small.replica_id.startswith("small.")


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


async def test_scaling_starts_and_stops_replicas() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
        scale = controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=2)
        assert (await rig.stub.ScaleDeployment(scale)).generation == 2
        second = await rig.ready_replica(2)
        await rig.watch_until(lambda status: status.applications[0].deployments[0].ready_replicas == 2)
        await rig.stub.ScaleDeployment(
            controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=1)
        )
        victim = second if (await _first_drained(first, second)) is second else first
        await rig.exit(victim)
        await rig.watch_until(_is_healthy)


async def _first_drained(*replicas: FakeReplica) -> FakeReplica:
    async with Supervisor("drained") as tasks:
        waiting = {tasks.spawn(replica.next(), name=replica.replica_id): replica for replica in replicas}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        (task,) = done
        assert task.result().HasField("drain")
        return waiting[task]


async def test_a_change_in_place_is_sent_to_what_runs() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
        await rig.deploy(app("app", spec("d", max_ongoing_requests=9)))
        reconfigure = (await replica.next()).reconfigure
        assert decode_deployment_spec(reconfigure.spec).max_ongoing_requests == 9
        assert len(rig.backend.started) == 1


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
        await rig.watch_until(_is_healthy)
    assert len(backend.started) == 2


async def test_what_died_between_two_controllers_is_replaced() -> None:
    store, backend = MemoryStore(), FakeBackend()
    async with controller(store=store, backend=backend) as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
    backend.exit(f"{first.replica_id}.{first.epoch}")
    async with controller(store=store, backend=backend) as rig:
        second = await rig.ready_replica(2)
        await rig.watch_until(_is_healthy)
        assert second.replica_id != first.replica_id


async def test_shutdown_drains_everything_and_ends_the_controller() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await rig.watch_until(_is_healthy)
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


async def test_a_bad_description_is_refused_whole() -> None:
    async with controller() as rig:
        bad = app("app", spec("d", import_path="nothing", num_replicas=1), spec("e", max_ongoing_requests=0))
        error = await refusal(rig.deploy(bad))
        assert isinstance(error, ConfigInvalidError)
        fields = [violation.field for violation in error.violations]
        assert fields == ["application.deployments[0].import_path", "application.deployments[1].max_ongoing_requests"]
        assert (await rig.status()).applications == ()


async def test_a_stale_generation_is_refused() -> None:
    async with controller() as rig:
        await rig.deploy(app(), expected_generation=0)
        error = await refusal(rig.deploy(app("app", spec("e")), expected_generation=0))
        assert isinstance(error, RevisionConflictError)


async def test_validation_changes_nothing() -> None:
    async with controller() as rig:
        answer = await rig.deploy(app(), validate_only=True)
        assert answer.generation == 1
        assert (await rig.status()).applications == ()


async def test_unknown_names_are_refused() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        stub = rig.stub
        for call in (
            stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="x")),
            stub.GetStatus(controller_pb2.GetStatusRequest(application="x")),
            stub.WatchStatus(controller_pb2.WatchStatusRequest(application="x")).read(),
            stub.ScaleDeployment(controller_pb2.ScaleDeploymentRequest(application="app", deployment="x")),
            stub.PauseRollout(controller_pb2.PauseRolloutRequest(application="app", deployment="x")),
            stub.ResumeRollout(controller_pb2.ResumeRolloutRequest(application="x", deployment="d")),
            stub.RollBack(controller_pb2.RollBackRequest(application="app", deployment="x")),
        ):
            assert isinstance(await refusal(call), DeploymentUnknownError)


async def test_a_rollout_is_paused_resumed_and_rolled_back() -> None:
    async with controller() as rig:
        first = await rig.deploy(app())
        second = await rig.deploy(app("app", spec("d", env={"A": "1"})))
        assert first.revisions["d"] != second.revisions["d"]
        await rig.stub.PauseRollout(controller_pb2.PauseRolloutRequest(application="app", deployment="d"))
        assert (await rig.status()).applications[0].deployments[0].paused
        await rig.stub.ResumeRollout(controller_pb2.ResumeRolloutRequest(application="app", deployment="d"))
        assert not (await rig.status()).applications[0].deployments[0].paused
        back = await rig.stub.RollBack(controller_pb2.RollBackRequest(application="app", deployment="d"))
        assert back.revision == first.revisions["d"]


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


async def test_health_says_ready() -> None:
    async with controller() as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        for service in ("", "liveness", "readiness"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
