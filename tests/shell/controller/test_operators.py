"""What operators ask of the controller over gRPC: done, or refused without a trace."""

from __future__ import annotations

import asyncio

from serve_core.errors import ConfigInvalidError, DeploymentUnknownError, RevisionConflictError
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import controller_pb2
from serve_core.wire.spec import decode_deployment_spec
from tests.shell.controller.rig import PATIENCE_S, FakeReplica, app, controller, is_healthy, refusal, spec


async def test_scaling_starts_and_stops_replicas() -> None:
    async with controller() as rig:
        await rig.deploy(app())
        first = await rig.ready_replica(1)
        await rig.watch_until(is_healthy)
        scale = controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=2)
        assert (await rig.stub.ScaleDeployment(scale)).generation == 2
        second = await rig.ready_replica(2)
        await rig.watch_until(lambda status: status.applications[0].deployments[0].ready_replicas == 2)
        await rig.stub.ScaleDeployment(
            controller_pb2.ScaleDeploymentRequest(application="app", deployment="d", num_replicas=1)
        )
        victim = second if (await _first_drained(first, second)) is second else first
        await rig.exit(victim)
        await rig.watch_until(is_healthy)


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
        await rig.watch_until(is_healthy)
        await rig.deploy(app("app", spec("d", max_ongoing_requests=9)))
        reconfigure = (await replica.next()).reconfigure
        assert decode_deployment_spec(reconfigure.spec).max_ongoing_requests == 9
        assert len(rig.backend.started) == 1


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
