"""Speaks to the controller: for the user's side and the command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import grpc
import grpc.aio

from serve_core.errors import ControllerUnreachableError, DeploymentUnavailableError, ServeError
from serve_core.model.deployplan import DeploymentPlan
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import ClusterStatus
from serve_core.progress import Progress, progress_of
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.v1 import controller_pb2 as pb
from serve_core.v1.controller_pb2_grpc import ControllerServiceStub
from serve_core.wire.deployplan import decode_deployment_plan
from serve_core.wire.errors import decode_error
from serve_core.wire.fields import encode_optional_duration
from serve_core.wire.spec import encode_application_spec
from serve_core.wire.status import decode_cluster_status

if TYPE_CHECKING:
    from serve_core.v1.controller_pb2_grpc import ControllerServiceAsyncStub

CONTROLLER_ENV = "SERVE_CORE_CONTROLLER"
REPLICA_CONTROLLER_ENV = "SERVE_CORE_REPLICA_CONTROLLER"
DEFAULT_CONTROLLER = "127.0.0.1:7070"
CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 30.0


_in_use: list[str] = []


def controller_address(given: str | None) -> str:
    """Where the controller listens: as given; else inside ``run`` and in a replica the one they belong to; else as the
    environment says; else on this machine."""
    inner = _in_use[-1] if _in_use else os.environ.get(REPLICA_CONTROLLER_ENV)
    return given or inner or os.environ.get(CONTROLLER_ENV) or DEFAULT_CONTROLLER


@contextmanager
def use_controller(address: str) -> Iterator[None]:
    """Makes ``address`` this process's controller for a block, where none is given."""
    _in_use.append(address)
    try:
        yield
    finally:
        _in_use.remove(address)


class ActorSnapshot(NamedTuple):
    """A stored state of a deployment actor: its size, and the incarnation that gave it."""

    size_bytes: int
    incarnation: int


class ControllerClient:
    """An open connection to a controller, as an async context manager.

    Every method raises ControllerUnreachableError when no controller answers, and otherwise the controller's error.

    Args:
        address: HOST:PORT of the controller.
        timeout_s: Seconds that each call may take.
    """

    def __init__(self, address: str, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None
        # The revisions that were deployed with this client, by application.
        self._revisions: dict[str, dict[str, str]] = {}

    async def __aenter__(self) -> Self:
        channel = open_channel(self._address)
        try:
            ready = await wait_ready(channel, min(CONNECT_TIMEOUT_S, self._timeout_s), fail_fast=True)
        except BaseException:
            await channel.close()
            raise
        if not ready:
            await channel.close()
            raise self._unreachable("no controller answers")
        self._channel = channel
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def deploy(self, spec: ApplicationSpec, *, expected_generation: int | None = None) -> int:
        """Records what an application should be; its generation from now on.

        Raises:
            RevisionConflictError: It is not at the expected generation; 0 expects that there is no such application.
        """
        response = await self._deploy(spec, expected_generation, validate_only=False)
        self._revisions[spec.name] = dict(response.revisions)
        return response.generation

    def revisions_of(self, application: str) -> Mapping[str, str]:
        """The revision of each deployment as it was deployed with this client last; empty if it was not."""
        return self._revisions.get(application, {})

    async def propose(
        self, spec: ApplicationSpec, *, expected_generation: int | None = None
    ) -> tuple[DeploymentPlan, ...]:
        """What ``deploy`` would do to each deployment. Changes nothing, and raises what ``deploy`` would raise."""
        response = await self._deploy(spec, expected_generation, validate_only=True)
        return tuple(decode_deployment_plan(plan) for plan in response.plans)

    async def _deploy(
        self, spec: ApplicationSpec, expected_generation: int | None, *, validate_only: bool
    ) -> pb.DeployApplicationResponse:
        request = pb.DeployApplicationRequest(
            application=encode_application_spec(spec),
            expected_generation=expected_generation,
            validate_only=validate_only,
        )
        async with self._speaking() as stub:
            return await stub.DeployApplication(request, timeout=self._timeout_s)

    async def delete(self, application: str) -> None:
        """Records that an application is to be removed."""
        async with self._speaking() as stub:
            await stub.DeleteApplication(pb.DeleteApplicationRequest(application=application), timeout=self._timeout_s)

    async def status_message(self, application: str = "") -> pb.ClusterStatus:
        """The state of everything, or of one application, as it is sent."""
        async with self._speaking() as stub:
            response = await stub.GetStatus(pb.GetStatusRequest(application=application), timeout=self._timeout_s)
            return response.status

    async def status(self, application: str = "") -> ClusterStatus:
        """The state of everything, or of one application."""
        return decode_cluster_status(await self.status_message(application))

    async def watch(self, application: str = "") -> AsyncGenerator[pb.ClusterStatus, None]:
        """The state now and after each change, as it is sent, until the controller ends."""
        async with self._speaking() as stub:
            call = stub.WatchStatus(pb.WatchStatusRequest(application=application))
            try:
                async for response in call:
                    yield response.status
            finally:
                call.cancel()

    async def events(
        self, application: str = "", deployment: str = "", *, after_sequence: int = 0, follow: bool = False
    ) -> AsyncGenerator[pb.Event, None]:
        """What happened, oldest first, as it is sent; with ``follow``, until the controller ends."""
        request = pb.WatchEventsRequest(
            application=application, deployment=deployment, after_sequence=after_sequence, follow=follow
        )
        async with self._speaking() as stub:
            call = stub.WatchEvents(request, timeout=None if follow else self._timeout_s)
            try:
                async for response in call:
                    yield response.event
            finally:
                call.cancel()

    async def scale(self, application: str, deployment: str, num_replicas: int) -> int:
        """Records how many replicas a deployment should have; the application's generation from now on."""
        request = pb.ScaleDeploymentRequest(application=application, deployment=deployment, num_replicas=num_replicas)
        async with self._speaking() as stub:
            return (await stub.ScaleDeployment(request, timeout=self._timeout_s)).generation

    async def pause_rollout(self, application: str, deployment: str) -> None:
        """Holds a deployment's change of revision."""
        request = pb.PauseRolloutRequest(application=application, deployment=deployment)
        async with self._speaking() as stub:
            await stub.PauseRollout(request, timeout=self._timeout_s)

    async def resume_rollout(self, application: str, deployment: str) -> None:
        """Lets a held change of revision go on."""
        request = pb.ResumeRolloutRequest(application=application, deployment=deployment)
        async with self._speaking() as stub:
            await stub.ResumeRollout(request, timeout=self._timeout_s)

    async def roll_back(self, application: str, deployment: str, revision: str = "") -> str:
        """Goes back to ``revision``, or to the one before; the target from now on."""
        request = pb.RollBackRequest(application=application, deployment=deployment, revision=revision)
        async with self._speaking() as stub:
            return (await stub.RollBack(request, timeout=self._timeout_s)).revision

    async def drain_node(self, node_id: str, *, deadline_s: float | None = None) -> None:
        """Moves what runs on a node elsewhere; what is still there after ``deadline_s`` goes without a replacement."""
        request = pb.DrainNodeRequest(node_id=node_id, deadline=encode_optional_duration(deadline_s))
        async with self._speaking() as stub:
            await stub.DrainNode(request, timeout=self._timeout_s)

    async def undrain_node(self, node_id: str) -> None:
        """Uses a node as any other again."""
        async with self._speaking() as stub:
            await stub.UndrainNode(pb.UndrainNodeRequest(node_id=node_id), timeout=self._timeout_s)

    async def snapshot_actor(
        self, application: str, deployment: str, actor: str, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> ActorSnapshot:
        """Has a deployment actor save its state as it is now, and waits until that is stored.

        Raises:
            ActorLostError: It does not serve, ended meanwhile, or did not answer in time.
            ActorUnknownError: There is no such actor.
            ApplicationError: It could not give its state.
        """
        request = pb.SnapshotActorRequest(application=application, deployment=deployment, actor=actor)
        async with self._speaking() as stub:
            response = await stub.SnapshotActor(request, timeout=timeout_s)
            return ActorSnapshot(size_bytes=response.bytes, incarnation=response.incarnation)

    async def shutdown(self) -> None:
        """Has everything drained and removed, and the controller end."""
        async with self._speaking() as stub:
            await stub.Shutdown(pb.ShutdownRequest(), timeout=self._timeout_s)

    async def wait_ready(
        self,
        application: str,
        *,
        generation: int = 0,
        revisions: Mapping[str, str] | None = None,
        timeout_s: float,
        report: Callable[[ClusterStatus], None] | None = None,
    ) -> ClusterStatus:
        """Waits until an application is as described and every router knows it, or only waits for an operator to resume it.

        Args:
            application: Which one.
            generation: At least this generation of it.
            revisions: Those that are waited for, by deployment; if None, those that were deployed with this client.
            timeout_s: Seconds to wait.
            report: Told each state on the way.

        Raises:
            StartError: Its replicas cannot start, even if an earlier revision was put back and serves.
            RevisionConflictError: What is waited for was superseded meanwhile.
            DeploymentUnavailableError: It failed otherwise, was deleted, or is not ready in time.
        """
        wanted = self.revisions_of(application) if revisions is None else revisions
        last: Progress | None = None
        try:
            async with asyncio.timeout(timeout_s), aclosing(self.watch(application)) as states:
                async for message in states:
                    status = decode_cluster_status(message)
                    if report is not None:
                        report(status)
                    last = progress_of(status, application, generation=generation, revisions=wanted)
                    if last.error is not None:
                        raise last.error
                    if last.ready or last.held:
                        return status
        except TimeoutError:
            raise DeploymentUnavailableError(
                f"application '{application}' was not ready within {timeout_s:g} s: "
                f"{last.waiting_for if last is not None else 'the controller said nothing'}; see 'serve-core status'",
                details={"application": application, "timeoutS": f"{timeout_s:g}"},
            ) from None
        raise self._unreachable("the controller ended")

    @asynccontextmanager
    async def _speaking(self) -> AsyncIterator[ControllerServiceAsyncStub]:
        if self._channel is None:
            raise RuntimeError("the connection to the controller is not open: use 'async with'")
        try:
            yield ControllerServiceStub(self._channel)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None

    def _translated(self, error: grpc.aio.AioRpcError) -> ServeError | grpc.aio.AioRpcError:
        ours = decode_error(error)
        if ours is not None:
            return ours
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable("the controller went away")
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._unreachable(f"the controller did not answer within {self._timeout_s:g} s")
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return self._unreachable("what answers is no controller (or an older one)")
        return error

    def _unreachable(self, what: str) -> ControllerUnreachableError:
        return ControllerUnreachableError(
            f"{what} at {self._address}: start one with 'serve-core run' or 'serve-core controller', "
            "or give its address with --controller",
            details={"address": self._address},
        )
