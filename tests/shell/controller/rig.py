"""A controller in this process, on fakes of everything but gRPC: its replicas and routers are clients of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from serve_core.controller.app import run
from serve_core.controller.config import ControllerConfig
from serve_core.controller.executor import parse_process_id
from serve_core.model.health import HealthPolicy
from serve_core.model.ids import DeploymentKey
from serve_core.model.load import Load
from serve_core.model.replica import Failure, Method, MethodKind, ReplicaPhase, ReplicaReport
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.model.status import ClusterStatus, DeploymentState
from serve_core.plan.policy import Policy
from serve_core.runtime.supervisor import Supervisor
from serve_core.testing import FakeBackend, MemoryStore
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.endpoints import decode_table_change
from serve_core.wire.errors import decode_error
from serve_core.wire.replica import encode_load, encode_replica_report
from serve_core.wire.spec import encode_application_spec
from serve_core.wire.status import decode_cluster_status

if TYPE_CHECKING:
    from serve_core.v1.controller_pb2_grpc import ControllerServiceAsyncStub as Stub

PATIENCE_S = 50.0
"""How long anything may take before the test fails; nothing waits for it to pass."""

PATIENT = HealthPolicy(suspect_after_missed=100, lost_after_missed=200)
"""Replicas here are silent, unless a test has them say something."""

POLICY = Policy(
    backoff_initial_s=0.01,
    backoff_max_s=0.05,
    router_lease_s=0.05,
    # So long that a test fails if it leans on one of these rather than on an event.
    patience_s=600.0,
    withdraw_timeout_s=600.0,
    kill_retry_s=600.0,
)
"""Quick where a test must wait, endless where it must not."""


def app(name: str = "app", *deployments: DeploymentSpec) -> ApplicationSpec:
    """An application, of one deployment ``d`` of one replica unless said otherwise."""
    chosen = deployments or (spec("d"),)
    return ApplicationSpec(name=name, ingress=chosen[0].name, deployments=chosen)


def spec(name: str, **changes: object) -> DeploymentSpec:
    """A deployment that asks for little."""
    settings: dict[str, object] = {"import_path": "m:A", "resources": Resources(cpus=0.5), "health": PATIENT, **changes}
    return DeploymentSpec(name=name, **settings)  # type: ignore[arg-type]


class FakeReplica:
    """A replica's side of the Attach stream."""

    def __init__(self, stub: Stub, replica_id: str, epoch: int = 1, pid: int = 1) -> None:
        self.replica_id = replica_id
        self.epoch = epoch
        self.pid = pid
        self.address = f"10.0.0.1:{pid}"
        self._stub = stub
        self._call: grpc.aio.StreamStreamCall[controller_pb2.AttachRequest, controller_pb2.AttachResponse] | None = None

    async def attach(self, phase: ReplicaPhase = ReplicaPhase.STARTING) -> None:
        """Says hello."""
        self._call = self._stub.Attach()
        hello = controller_pb2.AttachHello(
            replica_id=self.replica_id, epoch=self.epoch, pid=self.pid, report=encode_replica_report(self._told(phase))
        )
        await self.call.write(controller_pb2.AttachRequest(hello=hello))

    @property
    def call(self) -> grpc.aio.StreamStreamCall[controller_pb2.AttachRequest, controller_pb2.AttachResponse]:
        """The open stream."""
        assert self._call is not None
        return self._call

    def _told(self, phase: ReplicaPhase, failure: Failure | None = None) -> ReplicaReport:
        return ReplicaReport(
            phase=phase,
            address=self.address,
            load=Load(0, 0, 5),
            methods=(Method("echo", MethodKind.UNARY),),
            failure=failure,
        )

    async def report(self, phase: ReplicaPhase, failure: Failure | None = None) -> None:
        """Says what it is."""
        report = encode_replica_report(self._told(phase, failure))
        await self.call.write(controller_pb2.AttachRequest(report=report))

    async def heartbeat(self, sequence: int, load: Load, *, unanswered: bool = False) -> None:
        """Says that it lives."""
        beat = controller_pb2.Heartbeat(sequence=sequence, load=encode_load(load), unanswered=unanswered)
        await self.call.write(controller_pb2.AttachRequest(heartbeat=beat))

    async def next(self) -> controller_pb2.AttachResponse:
        """The next command."""
        async with asyncio.timeout(PATIENCE_S):
            command = await self.call.read()
        assert isinstance(command, controller_pb2.AttachResponse), "the stream has ended"
        return command

    async def ended(self) -> grpc.StatusCode:
        """Waits for the stream's end."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.call.code()

    def lose(self) -> None:
        """Breaks the stream."""
        self.call.cancel()


class FakeRouter:
    """A router's side of the WatchEndpoints stream, and the table that it leads to."""

    def __init__(self, stub: Stub, router_id: str = "router-1") -> None:
        self._stub = stub
        self.router_id = router_id
        self.version = controller_pb2.TableVersion()
        self.snapshots = 0
        self.routes: dict[DeploymentKey, bool] = {}
        self.methods: dict[DeploymentKey, tuple[Method, ...]] = {}
        self.replicas: dict[str, str] = {}
        self._call: (
            grpc.aio.StreamStreamCall[controller_pb2.WatchEndpointsRequest, controller_pb2.WatchEndpointsResponse]
            | None
        ) = None

    async def subscribe(self) -> None:
        """Opens the stream, with the table that it has."""
        self._call = self._stub.WatchEndpoints()
        first = controller_pb2.WatchEndpointsRequest(router_id=self.router_id, address="10.0.0.9:1")
        if self.version.epoch:
            first.acknowledged.CopyFrom(self.version)
        await self._call.write(first)

    async def take(self) -> None:
        """Takes the next change."""
        assert self._call is not None
        async with asyncio.timeout(PATIENCE_S):
            message = await self._call.read()
        assert isinstance(message, controller_pb2.WatchEndpointsResponse), "the stream has ended"
        change = decode_table_change(message)
        self.version = message.version
        if change.snapshot:
            self.snapshots += 1
            self.routes.clear()
            self.replicas.clear()
        self.routes.update({route.key: route.available for route in change.upserted_deployments})
        self.methods.update({route.key: route.methods for route in change.upserted_deployments})
        for key in change.removed_deployments:
            self.routes.pop(key, None)
        self.replicas.update({replica.replica_id: replica.address for replica in change.upserted_replicas})
        for replica_id in change.removed_replica_ids:
            self.replicas.pop(replica_id, None)

    async def acknowledge(self) -> None:
        """Says that it routes by its table from now on."""
        assert self._call is not None
        await self._call.write(controller_pb2.WatchEndpointsRequest(acknowledged=self.version))

    async def until(self, *replica_ids: str, acknowledging: bool = True) -> None:
        """Takes changes until exactly these replicas are there."""
        while set(self.replicas) != set(replica_ids):
            await self.take()
            if acknowledging:
                await self.acknowledge()

    async def leave(self) -> None:
        """Ends the stream in good order."""
        assert self._call is not None
        await self._call.done_writing()
        async with asyncio.timeout(PATIENCE_S):
            while await self._call.read() is not grpc.aio.EOF:  # what was on its way
                continue

    def lose(self) -> None:
        """Breaks the stream."""
        assert self._call is not None
        self._call.cancel()


class Rig:
    """One life of a controller; another on the same store and backend is its successor."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        backend: FakeBackend,
        stop: asyncio.Event,
        life: asyncio.Task[None],
        address: str,
    ) -> None:
        self.stub: Stub = controller_pb2_grpc.ControllerServiceStub(channel)
        self.channel = channel
        self.backend = backend
        self.stop = stop
        self.life = life
        self.address = address

    async def deploy(self, application: ApplicationSpec, **options: int) -> controller_pb2.DeployApplicationResponse:
        """Deploys."""
        request = controller_pb2.DeployApplicationRequest(
            application=encode_application_spec(application),
            **options,  # type: ignore[arg-type]
        )
        return await self.stub.DeployApplication(request)

    async def status(self) -> ClusterStatus:
        """The state of everything."""
        response = await self.stub.GetStatus(controller_pb2.GetStatusRequest())
        return decode_cluster_status(response.status)

    async def watch_until(self, holds: object) -> ClusterStatus:
        """Waits for a state of which ``holds`` is true."""
        call = self.stub.WatchStatus(controller_pb2.WatchStatusRequest())
        async with asyncio.timeout(PATIENCE_S):
            async for response in call:
                status = decode_cluster_status(response.status)
                if holds(status):  # type: ignore[operator]
                    call.cancel()
                    return status
        raise AssertionError("the stream has ended")

    async def replica(self, number: int) -> FakeReplica:
        """The replica of the process that was started as the ``number``-th, counted from 1; not attached yet."""
        async with asyncio.timeout(PATIENCE_S):
            specs = await self.backend.wait_started(number)
        named = parse_process_id(specs[number - 1].process_id)
        assert named is not None
        return FakeReplica(self.stub, named[0], named[1], 99_999 + number)

    async def ready_replica(self, number: int) -> FakeReplica:
        """The same, attached and ready."""
        replica = await self.replica(number)
        await replica.attach()
        assert (await replica.next()).HasField("welcome")
        await replica.report(ReplicaPhase.READY)
        return replica

    async def exit(self, replica: FakeReplica, exit_code: int = 0) -> None:
        """Lets a replica's process end, and with it its stream, once what it said is on its way."""
        if not replica.call.done():
            await replica.call.done_writing()
        self.backend.exit(f"{replica.replica_id}.{replica.epoch}", exit_code)


async def refusal(call: object) -> Exception:
    """The error that an RPC is answered with."""
    try:
        await call  # type: ignore[misc]
    except grpc.aio.AioRpcError as error:
        told = decode_error(error)
        if told is None:
            raise
        return told
    raise AssertionError("it was not refused")


@contextlib.asynccontextmanager
async def controller(
    *,
    store: MemoryStore | None = None,
    backend: FakeBackend | None = None,
    policy: Policy = POLICY,
    **settings: object,
) -> AsyncIterator[Rig]:
    """Runs a controller for the length of a block."""
    backend = backend or FakeBackend()
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    config = ControllerConfig.for_test(Path("unused"), policy=policy, **settings)
    crashes: list[BaseException] = []
    tasks = Supervisor("test", on_crash=crashes.append)
    tasks.open()
    life = tasks.spawn(
        run(config, store=store or MemoryStore(), backend=backend, stop=stop, on_ready=ready.set_result),
        name="controller",
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            address = await ready
        async with grpc.aio.insecure_channel(address) as channel:
            yield Rig(channel, backend, stop, life, address)
            stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([life])
    finally:
        await tasks._cancel_all()


def is_healthy(status: ClusterStatus) -> bool:
    """Whether there are deployments, and all of them are healthy."""
    states = [one.state for application in status.applications for one in application.deployments]
    return bool(states) and set(states) == {DeploymentState.HEALTHY}
