"""The controller's gRPC service: translates, and leaves the rest to others."""

# ruff: noqa: ARG002, N802 - names and arguments are those of the generated servicer

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from serve_core import __version__
from serve_core.controller.actor_states import ActorStates
from serve_core.controller.attach import AttachHub
from serve_core.controller.loop import ReconcileLoop
from serve_core.controller.publisher import Publisher
from serve_core.controller.world import World
from serve_core.errors import DeploymentUnknownError, DrainingError
from serve_core.link.links import Offer
from serve_core.model.event import Event
from serve_core.model.ids import DeploymentKey, NodeId, ReplicaId
from serve_core.model.status import ClusterStatus
from serve_core.plan.actor_state import Caller
from serve_core.plan.deploy import Change, delete, deploy, pause, roll_back, scale
from serve_core.plan.diff import deployment_plans
from serve_core.plan.nodes import drain_node, undrain_node
from serve_core.plan.placement import Capacity, Waiters
from serve_core.plan.policy import Policy
from serve_core.plan.records import Records
from serve_core.plan.status import cluster_status
from serve_core.runtime import clock, log
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.deployplan import encode_deployment_plan
from serve_core.wire.events import encode_event
from serve_core.wire.fields import decode_duration
from serve_core.wire.payload_text import payload_text
from serve_core.wire.spec import decode_application_spec
from serve_core.wire.status import encode_cluster_status

Context = grpc.aio.ServicerContext[Any, Any]

_log = log.get_logger(__name__)


class ControllerService(controller_pb2_grpc.ControllerServiceServicer):
    """See ``serve_core.v1.ControllerService`` for each method.

    Args:
        world: What is known.
        loop: Changes what is wanted.
        attach: Serves replicas.
        states: Serves actors.
        publisher: Serves routers.
        policy: How long lost routers count.
        status_interval_s: The least time between two states on a WatchStatus stream.
    """

    def __init__(
        self,
        *,
        world: World,
        loop: ReconcileLoop,
        attach: AttachHub,
        states: ActorStates,
        publisher: Publisher,
        policy: Policy,
        status_interval_s: float,
    ) -> None:
        self._world = world
        self._loop = loop
        self._attach = attach
        self._states = states
        self._publisher = publisher
        self._policy = policy
        self._status_interval_s = status_interval_s
        self._closing = asyncio.Event()
        self.shutdown_asked = asyncio.Event()
        self.offer: Callable[[], Awaitable[Offer]] = _no_offer
        """Where processes of this host find a link."""

    def close(self) -> None:
        """Ends every stream."""
        self._closing.set()
        self._attach.close()
        self._publisher.close()
        self._world.changed.beat()

    async def DeployApplication(
        self, request: controller_pb2.DeployApplicationRequest, context: Context
    ) -> controller_pb2.DeployApplicationResponse:
        """Makes an application be as described."""
        spec = decode_application_spec(request.application)
        expected = request.expected_generation if request.HasField("expected_generation") else None
        now = self._world.now()
        before = self._world.records

        def decide(records: Records) -> Change:
            nonlocal before
            before = records
            return deploy(records, spec, now=now, expected_generation=expected)

        if request.validate_only:
            change = decide(before)
        else:
            change = await self._change(decide)
            _log.info("deployed", application=spec.name, generation=change.generation)
        capacity = Capacity(self._world.observed.nodes.values(), before.gangs.values(), draining=before.nodes)
        waiters = Waiters(one for one in before.deployments.values() if one.key.application != spec.name)
        capacity = waiters.capacity_for(None, capacity)
        plans = deployment_plans(before, spec, capacity=capacity, payload_text=payload_text)
        return controller_pb2.DeployApplicationResponse(
            generation=change.generation,
            revisions=change.revisions,
            plans=[encode_deployment_plan(plan) for plan in plans],
        )

    async def DeleteApplication(
        self, request: controller_pb2.DeleteApplicationRequest, context: Context
    ) -> controller_pb2.DeleteApplicationResponse:
        """Drains and removes an application."""
        await self._loop.change(lambda records: delete(records, request.application))
        _log.info("deleted", application=request.application)
        return controller_pb2.DeleteApplicationResponse()

    async def ScaleDeployment(
        self, request: controller_pb2.ScaleDeploymentRequest, context: Context
    ) -> controller_pb2.ScaleDeploymentResponse:
        """Changes how many replicas a deployment has."""
        key = DeploymentKey(request.application, request.deployment)
        change = await self._change(lambda records: scale(records, key, num_replicas=request.num_replicas))
        return controller_pb2.ScaleDeploymentResponse(generation=change.generation)

    async def PauseRollout(
        self, request: controller_pb2.PauseRolloutRequest, context: Context
    ) -> controller_pb2.PauseRolloutResponse:
        """Holds a deployment's change of revision where it is."""
        await self._pause(DeploymentKey(request.application, request.deployment), paused=True)
        return controller_pb2.PauseRolloutResponse()

    async def ResumeRollout(
        self, request: controller_pb2.ResumeRolloutRequest, context: Context
    ) -> controller_pb2.ResumeRolloutResponse:
        """Lets a held change of revision go on."""
        await self._pause(DeploymentKey(request.application, request.deployment), paused=False)
        return controller_pb2.ResumeRolloutResponse()

    async def RollBack(
        self, request: controller_pb2.RollBackRequest, context: Context
    ) -> controller_pb2.RollBackResponse:
        """Goes back to an earlier revision of a deployment."""
        key = DeploymentKey(request.application, request.deployment)
        change = await self._change(lambda records: roll_back(records, key, revision=request.revision))
        return controller_pb2.RollBackResponse(revision=change.revisions[key.deployment])

    async def DrainNode(
        self, request: controller_pb2.DrainNodeRequest, context: Context
    ) -> controller_pb2.DrainNodeResponse:
        """Moves what runs on a node elsewhere."""
        deadline_s = decode_duration(request.deadline) if request.HasField("deadline") else None
        known, node_id, now = self._world.observed.nodes, NodeId(request.node_id), self._world.now()
        await self._loop.change(lambda records: drain_node(records, known, node_id, now=now, deadline_s=deadline_s))
        _log.info("drains a node", node=node_id, deadline_s=deadline_s)
        return controller_pb2.DrainNodeResponse()

    async def UndrainNode(
        self, request: controller_pb2.UndrainNodeRequest, context: Context
    ) -> controller_pb2.UndrainNodeResponse:
        """Uses a node as any other again."""
        known, node_id, now = self._world.observed.nodes, NodeId(request.node_id), self._world.now()
        await self._loop.change(lambda records: undrain_node(records, known, node_id, now=now))
        _log.info("drains a node no more", node=node_id)
        return controller_pb2.UndrainNodeResponse()

    async def Shutdown(
        self, request: controller_pb2.ShutdownRequest, context: Context
    ) -> controller_pb2.ShutdownResponse:
        """Drains and removes everything, then ends the controller."""
        _log.info("asked to shut down")
        # First, so that nothing is deployed in between.
        self.shutdown_asked.set()
        for name in sorted(self._world.records.applications):
            with contextlib.suppress(DeploymentUnknownError):  # it was gone meanwhile
                await self._loop.change(lambda records, name=name: delete(records, name))  # type: ignore[misc]
        return controller_pb2.ShutdownResponse()

    async def GetStatus(
        self, request: controller_pb2.GetStatusRequest, context: Context
    ) -> controller_pb2.GetStatusResponse:
        """The state of everything, now."""
        self._require_known(request.application)
        status = encode_cluster_status(self._status(request.application))
        return controller_pb2.GetStatusResponse(status=status)

    async def WatchStatus(
        self, request: controller_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[controller_pb2.WatchStatusResponse]:
        """The state of everything, now and at every change."""
        self._require_known(request.application)
        sent: ClusterStatus | None = None
        while not self._closing.is_set():
            seen, began = self._world.changed.count, clock.monotonic()
            status = self._status(request.application)
            # Of very many replicas a state takes long to tell: one that watches gets no more than a tenth of the time.
            pause_s = max(self._status_interval_s, 9 * (clock.monotonic() - began))
            if status != sent:
                sent = status
                yield controller_pb2.WatchStatusResponse(status=encode_cluster_status(status))
            await self._world.changed.after(seen)
            # What changes within the interval is told together.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()

    async def WatchEvents(
        self, request: controller_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[controller_pb2.WatchEventsResponse]:
        """What happened, and what happens."""
        log_now = self._world.events
        if not any(event.key.application == request.application for event in log_now.events):
            self._require_known(request.application)  # Of what was deleted, the events are still told.
        # A higher sequence is of another life of the store: all that happens from now on is new.
        sent = min(request.after_sequence, log_now.last_sequence)
        # Now, so that who waits for it knows that nothing is missed from here on.
        await context.send_initial_metadata(())
        while not self._closing.is_set():
            seen = self._world.changed.count
            for event in self._world.events.after(sent):
                sent = event.sequence
                if _is_about(event, request):
                    yield controller_pb2.WatchEventsResponse(event=encode_event(event))
            if not request.follow:
                return
            await self._world.changed.after(seen)

    async def SnapshotActor(
        self, request: controller_pb2.SnapshotActorRequest, context: Context
    ) -> controller_pb2.SnapshotActorResponse:
        """Has an actor save its state now, and waits until it is stored."""
        key = DeploymentKey(request.application, request.deployment)
        snapshot = await self._states.request(key, request.actor)
        return controller_pb2.SnapshotActorResponse(bytes=snapshot.size_bytes, incarnation=snapshot.incarnation)

    async def SaveActorState(
        self, request_iterator: AsyncIterator[controller_pb2.SaveActorStateRequest], context: Context
    ) -> controller_pb2.SaveActorStateResponse:
        """An actor's upload of its state."""
        await self._states.save(request_iterator)
        return controller_pb2.SaveActorStateResponse()

    async def LoadActorState(
        self, request: controller_pb2.LoadActorStateRequest, context: Context
    ) -> AsyncIterator[controller_pb2.LoadActorStateResponse]:
        """An actor's download of the state that it is to start from."""
        caller = Caller(replica_id=ReplicaId(request.replica_id), epoch=request.epoch, incarnation=request.incarnation)
        async with contextlib.aclosing(self._states.load(caller)) as parts:
            async for part in parts:
                yield controller_pb2.LoadActorStateResponse(data=part)

    async def GetLink(self, request: controller_pb2.GetLinkRequest, context: Context) -> controller_pb2.GetLinkResponse:
        """Where processes of this host may make calls in a link."""
        socket, secret = await self.offer()
        return controller_pb2.GetLinkResponse(socket=socket, secret=secret)

    async def WatchEndpoints(
        self, request_iterator: AsyncIterator[controller_pb2.WatchEndpointsRequest], context: Context
    ) -> AsyncIterator[controller_pb2.WatchEndpointsResponse]:
        """A router's subscription."""
        async with contextlib.aclosing(self._publisher.serve(request_iterator)) as changes:
            async for change in changes:
                yield change

    async def Attach(
        self, request_iterator: AsyncIterator[controller_pb2.AttachRequest], context: Context
    ) -> AsyncIterator[controller_pb2.AttachResponse]:
        """A replica's subscription."""
        async with contextlib.aclosing(self._attach.serve(request_iterator)) as commands:
            async for command in commands:
                yield command

    async def _pause(self, key: DeploymentKey, *, paused: bool) -> Change:
        return await self._loop.change(lambda records: pause(records, key, paused=paused))

    async def _change(self, decide: Callable[[Records], Change]) -> Change:
        """A change that brings something into being: not once everything is being removed."""

        def decide_unless_ending(records: Records) -> Change:
            if self.shutdown_asked.is_set():
                raise DrainingError("the controller shuts down; ask the next one")
            return decide(records)

        return await self._loop.change(decide_unless_ending)

    def _require_known(self, application: str) -> None:
        if application and application not in self._world.records.applications:
            known = ", ".join(sorted(self._world.records.applications)) or "none"
            raise DeploymentUnknownError(
                f"there is no application '{application}'; there is: {known}", details={"application": application}
            )

    def _status(self, application: str) -> ClusterStatus:
        return cluster_status(
            self._world.records,
            self._world.observed,
            table=self._publisher.version,
            pid=os.getpid(),
            version=__version__,
            now=self._world.now(),
            application=application,
            policy=self._policy,
        )


def _is_about(event: Event, request: controller_pb2.WatchEventsRequest) -> bool:
    return request.application in ("", event.key.application) and request.deployment in ("", event.key.deployment)


async def _no_offer() -> Offer:
    return Offer()
