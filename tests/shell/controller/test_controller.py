"""The whole controller over real gRPC, with fake replicas, routers and processes."""

from __future__ import annotations

from dataclasses import replace

from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.model.load import Load
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.resources import Resources
from serve_core.model.status import ClusterStatus, DeploymentState
from serve_core.v1 import controller_pb2
from serve_core.wire.fields import decode_duration
from serve_core.wire.replica import decode_replica
from serve_core.wire.spec import decode_deployment_spec
from tests.shell.controller.rig import POLICY, FakeRouter, app, controller, is_healthy, spec


def is_empty(status: ClusterStatus) -> bool:
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
        status = await rig.watch_until(is_healthy)
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
        status = await rig.watch_until(is_healthy)
        assert "signal 9" in status.applications[0].deployments[0].failures[0].message


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
        status = await rig.watch_until(is_empty)
        assert status.nodes[0].used == Resources()
        assert (await rig.backend.list()).placements == ()


async def test_without_routers_a_drain_waits_for_nobody() -> None:
    async with controller(policy=replace(POLICY, router_lease_s=0.0)) as rig:
        await rig.deploy(app())
        replica = await rig.ready_replica(1)
        await rig.watch_until(is_healthy)
        await rig.stub.ScaleDeployment(
            controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=0)
        )
        assert (await replica.next()).HasField("drain")
        await rig.exit(replica)
        await rig.watch_until(lambda status: not status.applications[0].deployments[0].replicas)


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
        await rig.watch_until(is_healthy)
        await rig.deploy(app("small"))
        await rig.watch_until(lambda status: len(status.applications) == 2)
        await rig.stub.DeleteApplication(controller_pb2.DeleteApplicationRequest(application="big"))
        await big.next()
        await rig.exit(big)
        small = await rig.ready_replica(2)
        assert small.replica_id.startswith("small.")


async def test_health_says_ready() -> None:
    async with controller() as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        for service in ("", "liveness", "readiness"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
