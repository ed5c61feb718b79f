"""What an operator does to a cluster and sees of it, also while the controller is away: then it waits for the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio
import psutil

from bench.steady_app import steady
from serve_core.api import build
from serve_core.launch import LocalCluster
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import ReplicaPhase
from serve_core.model.slots import SlotCounters
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import (
    ApplicationStatus,
    ClusterStatus,
    DeploymentState,
    DeploymentStatus,
    RolloutPhase,
)
from serve_core.runtime.channel import open_channel
from serve_core.subprocesses import RUN_ENV, marked_processes
from serve_core.v1 import controller_pb2 as pb
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from serve_core.v1.controller_pb2_grpc import ControllerServiceStub
from serve_core.wire.slots import decode_slot_counters
from serve_core.wire.spec import encode_application_spec
from serve_core.wire.status import decode_cluster_status

if TYPE_CHECKING:
    from serve_core.v1.controller_pb2_grpc import ControllerServiceAsyncStub

ROOT = Path(__file__).parents[1]
APPLICATION = "steady"
KEY = DeploymentKey(APPLICATION, "Steady")
TIMEOUT_S = 60.0
T = TypeVar("T")


def steady_spec(version: int, *, journal: str = "", **options: Any) -> ApplicationSpec:
    """``Steady`` at a version, as the application ``steady``."""
    bound = steady.options(working_dir=str(ROOT), **options).bind(version, journal)
    return build(bound, APPLICATION)


def deployment_of(status: ClusterStatus) -> DeploymentStatus | None:
    """The deployment ``Steady``, if it is known."""
    for application in status.applications:
        if application.name == APPLICATION:
            return next((one for one in application.deployments if one.name == KEY.deployment), None)
    return None


def whole(deployment: DeploymentStatus) -> bool:
    """Whether all of it is ready, attached, in rotation and of one revision, and nothing else is left."""
    return (
        deployment.state is DeploymentState.HEALTHY
        and len(deployment.replicas) == deployment.num_replicas
        and deployment.updated_replicas == deployment.ready_replicas == deployment.num_replicas
        and all(
            one.phase is ReplicaPhase.READY
            and one.in_rotation
            and one.replica.address
            and one.replica.revision == deployment.revision
            for one in deployment.replicas
        )
        and (
            deployment.rollout is None or deployment.rollout.phase in (RolloutPhase.COMPLETE, RolloutPhase.ROLLED_BACK)
        )
    )


class Operator:
    """One connection to a controller, as an async context manager. Whatever it asks survives the controller's death."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub: ControllerServiceAsyncStub = ControllerServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def deploy(self, spec: ApplicationSpec) -> int:
        """Records what is wanted; its generation. Saying it again, after a controller's death, changes nothing."""
        request = pb.DeployApplicationRequest(application=encode_application_spec(spec))
        return (await self._insist(lambda: self._stub.DeployApplication(request, wait_for_ready=True))).generation

    async def scale(self, num_replicas: int) -> None:
        """Records how many replicas are wanted."""
        request = pb.ScaleDeploymentRequest(
            application=KEY.application, deployment=KEY.deployment, num_replicas=num_replicas
        )
        await self._insist(lambda: self._stub.ScaleDeployment(request, wait_for_ready=True))

    async def pause(self) -> None:
        """Holds the rollout."""
        request = pb.PauseRolloutRequest(application=KEY.application, deployment=KEY.deployment)
        await self._insist(lambda: self._stub.PauseRollout(request, wait_for_ready=True))

    async def resume(self) -> None:
        """Lets the rollout go on."""
        request = pb.ResumeRolloutRequest(application=KEY.application, deployment=KEY.deployment)
        await self._insist(lambda: self._stub.ResumeRollout(request, wait_for_ready=True))

    async def undo(self) -> str:
        """Goes back to the revision before; the target from now on."""
        request = pb.RollBackRequest(application=KEY.application, deployment=KEY.deployment)
        return (await self._insist(lambda: self._stub.RollBack(request, wait_for_ready=True))).revision

    async def status(self) -> ClusterStatus:
        """The state of everything now."""
        return decode_cluster_status(
            (await self._insist(lambda: self._stub.GetStatus(pb.GetStatusRequest(), wait_for_ready=True))).status
        )

    async def until(self, true_of: Callable[[ClusterStatus], bool], *, timeout_s: float = TIMEOUT_S) -> ClusterStatus:
        """Waits for a state of the cluster, over any number of controllers.

        Raises:
            TimeoutError: It did not come; says what was seen last.
        """
        last: ClusterStatus | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    watch = self._stub.WatchStatus(pb.WatchStatusRequest(), wait_for_ready=True)
                    try:
                        async for message in watch:
                            last = decode_cluster_status(message.status)
                            if true_of(last):
                                return last
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                    finally:
                        watch.cancel()
        except TimeoutError:
            raise TimeoutError(f"not within {timeout_s:g} s; last seen: {last}") from None

    async def until_deployment(
        self, true_of: Callable[[DeploymentStatus], bool], *, timeout_s: float = TIMEOUT_S
    ) -> DeploymentStatus:
        """Waits for a state of the deployment ``Steady``."""
        status = await self.until(
            lambda seen: (one := deployment_of(seen)) is not None and true_of(one), timeout_s=timeout_s
        )
        found = deployment_of(status)
        assert found is not None
        return found

    async def until_whole(
        self,
        generation: int = 0,
        *,
        until: Callable[[DeploymentStatus], bool] = lambda _: True,
        timeout_s: float = TIMEOUT_S,
    ) -> DeploymentStatus:
        """Waits until this generation is looked at, all of it is ready, and what else is asked for holds.

        Raises:
            RuntimeError: It was given up.
        """

        def arrived(status: ClusterStatus) -> bool:
            known = _application(status)
            deployment = deployment_of(status)
            if known is None or deployment is None or known.observed_generation < generation:
                return False
            if deployment.state is DeploymentState.DEPLOY_FAILED:
                raise RuntimeError(deployment.message)
            return whole(deployment) and until(deployment)

        found = deployment_of(await self.until(arrived, timeout_s=timeout_s))
        assert found is not None
        return found

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again for as long as no controller is there to answer."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    return await ask()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise


def _application(status: ClusterStatus) -> ApplicationStatus | None:
    return next((one for one in status.applications if one.name == APPLICATION), None)


async def counters(deployment: DeploymentStatus) -> Mapping[str, SlotCounters]:
    """How the promises of each replica ended so far, by its id."""
    found: dict[str, SlotCounters] = {}
    for one in deployment.replicas:
        async with open_channel(one.replica.address) as channel:
            stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
            answer = await stub.GetReplica(replica_pb2.GetReplicaRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
            found[one.replica.replica_id] = decode_slot_counters(answer.counters)
    return found


def total(found: Mapping[str, SlotCounters]) -> SlotCounters:
    """The sum over replicas."""
    return SlotCounters(*(sum(column) for column in zip(*found.values(), strict=True)))


def conserved(sums: SlotCounters) -> bool:
    """Whether every promise ended in exactly one way, or is still held."""
    return sums.issued == sums.ended + sums.reserved + sums.ongoing


def processes_of(cluster: LocalCluster) -> set[int]:
    """The pids of everything that the cluster has running, by the mark that each of its processes carries.

    The process that replicas are forked from is not counted: it comes and goes with its controller.
    """
    mark = psutil.Process(cluster.router_pid).environ()[RUN_ENV]
    return {process.pid for process in marked_processes(mark) if not _is_forkserver(process)}


def _is_forkserver(process: psutil.Process) -> bool:
    try:
        return "forkserver" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
