"""A replica in this process, with user code from a file, and a small controller for it to attach to."""

from __future__ import annotations

import asyncio
import itertools
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import pytest

from replica.app import ReplicaApp
from replica.config import ACTOR, REPLICA, ReplicaConfig
from serve_core.errors import ServeError
from serve_core.model.actor import ActorAssignment
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId
from serve_core.model.ids import replica_id as member_id
from serve_core.model.replica import Gang, Replica, ReplicaPhase, ReplicaReport
from serve_core.model.spec import DeploymentSpec
from serve_core.runtime.channel import open_channel
from serve_core.runtime.server import Server
from serve_core.v1 import controller_pb2, replica_pb2, replica_pb2_grpc
from serve_core.wire.actors import encode_actor_assignment
from serve_core.wire.codec import decode_value, encode_arguments
from serve_core.wire.errors import abort, decode_error
from serve_core.wire.fields import encode_duration
from serve_core.wire.payload import decode_payload, encode_payload
from serve_core.wire.replica import decode_replica_report, encode_replica
from serve_core.wire.spec import encode_deployment_spec

REPLICA_ID = ReplicaId("app.dep.g1-0")
EPOCH = 3
WAIT_S = 50.0

_modules = itertools.count()
_END = object()


class SavedState(NamedTuple):
    """A state that an actor uploaded: its first message, and all the bytes."""

    first: controller_pb2.SaveActorStateRequest
    data: bytes


class FakeController:
    """Welcomes one replica, keeps what it says, and passes commands on."""

    def __init__(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.hellos: list[controller_pb2.AttachHello] = []
        self.reports: list[ReplicaReport] = []
        self.heartbeats: list[controller_pb2.Heartbeat] = []
        self.heartbeat_s = 60.0
        self.acknowledges = True
        self.gang = Gang(gang_id=GangId("app.dep.g1"))
        self.raw_spec: controller_pb2.DeploymentSpec | None = None
        self.refuse = 0
        self.actor: ActorAssignment | None = None
        self.states: list[SavedState] = []
        self.stored: bytes | None = None
        self.refuses_states: ServeError | None = None
        self._news = asyncio.Event()
        self._commands: asyncio.Queue[Any] = asyncio.Queue()

    async def attach(
        self, request_iterator: AsyncIterator[controller_pb2.AttachRequest], context: Any
    ) -> AsyncIterator[controller_pb2.AttachResponse]:
        """One stream."""
        if self.refuse > 0:
            self.refuse -= 1
            self._news.set()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        hello = (await anext(request_iterator)).hello
        self.hellos.append(hello)
        self._keep(hello.report)
        replica = Replica(
            replica_id=ReplicaId(hello.replica_id),
            key=DeploymentKey("app", "dep"),
            revision=RevisionId("r1"),
            epoch=EPOCH,
            address="",
            node_id=NodeId("node-7"),
            gang=self.gang,
        )
        spec = self.raw_spec or encode_deployment_spec(self.spec)
        welcome = controller_pb2.AttachWelcome(
            replica=encode_replica(replica),
            spec=spec,
            heartbeat_period=encode_duration(self.heartbeat_s),
            actor=None if self.actor is None else encode_actor_assignment(self.actor),
        )
        yield controller_pb2.AttachResponse(welcome=welcome)
        reading = asyncio.ensure_future(self._read(request_iterator))
        try:
            while (command := await self._next(reading)) is not _END:
                yield command
        finally:
            reading.cancel()

    async def save(
        self, request_iterator: AsyncIterator[controller_pb2.SaveActorStateRequest], context: Any
    ) -> controller_pb2.SaveActorStateResponse:
        """An actor's upload of its state."""
        parts = [part async for part in request_iterator]
        if self.refuses_states is not None:
            await abort(context, self.refuses_states)
        self.states.append(SavedState(parts[0], b"".join(part.data for part in parts)))
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [not parts[0].HasField("failure")]
        if not parts[0].HasField("failure"):
            self.stored = self.states[-1].data
        self._news.set()
        return controller_pb2.SaveActorStateResponse()

    async def load(
        self, request: controller_pb2.LoadActorStateRequest, context: Any
    ) -> AsyncIterator[controller_pb2.LoadActorStateResponse]:
        """An actor's download of the state to begin from."""
        if self.refuses_states is not None:
            await abort(context, self.refuses_states)
        assert self.actor is not None
        assert (request.replica_id, request.epoch, request.incarnation) == (REPLICA_ID, EPOCH, self.actor.incarnation)
        for byte in self.stored or b"":
            yield controller_pb2.LoadActorStateResponse(data=bytes([byte]))

    def send(self, **command: Any) -> None:
        """Sends a command."""
        self._commands.put_nowait(controller_pb2.AttachResponse(**command))

    def acknowledge(self, sequence: int) -> None:
        """Says that a heartbeat was heard."""
        self.send(heartbeat_ack=controller_pb2.HeartbeatAck(sequence=sequence))

    def hang_up(self) -> None:
        """Ends the stream."""
        self._commands.put_nowait(_END)

    async def until(self, holds: Callable[[FakeController], object]) -> None:
        """Waits until something holds."""
        async with asyncio.timeout(WAIT_S):
            while not holds(self):
                self._news.clear()
                await self._news.wait()

    async def phase(self, phase: ReplicaPhase) -> ReplicaReport:
        """Waits until the replica says that it is in this phase."""
        await self.until(lambda self: self.reports and self.reports[-1].phase is phase)
        return self.reports[-1]

    def _keep(self, report: controller_pb2.ReplicaReport) -> None:
        self.reports.append(decode_replica_report(report))
        self._news.set()

    async def _read(self, requests: AsyncIterator[controller_pb2.AttachRequest]) -> None:
        async for request in requests:
            if request.HasField("report"):
                self._keep(request.report)
            else:
                self.heartbeats.append(request.heartbeat)
                if self.acknowledges and not request.heartbeat.unanswered:
                    self.acknowledge(request.heartbeat.sequence)
                self._news.set()

    async def _next(self, reading: asyncio.Future[None]) -> Any:
        getting = asyncio.ensure_future(self._commands.get())
        await asyncio.wait({reading, getting}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        return _END


@dataclass
class Running:
    """A replica that runs, and a client of it."""

    app: ReplicaApp
    controller: FakeController
    channel: grpc.aio.Channel
    stub: Any
    task: asyncio.Task[int]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    environ: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, *args: Any, token: str = "", timeout: float = WAIT_S, **kwargs: Any) -> Any:
        """Dispatches a unary method."""
        response = await self.stub.Dispatch(request(method, *args, token=token, **kwargs), timeout=timeout)
        return decode_value(decode_payload(response.result))

    async def stream(self, method: str, *args: Any, items: list[Any] | None = None, token: str = "") -> list[Any]:
        """Dispatches a method that streams, and collects its items."""
        call = self.stub.DispatchStream(timeout=WAIT_S)
        await call.write(replica_pb2.DispatchStreamRequest(open=request(method, *args, token=token)))
        for item in items or []:
            payload = encode_arguments([item], {})
            value = payload if payload.type_name else _value(item)
            await call.write(replica_pb2.DispatchStreamRequest(item=encode_payload(value)))
        await call.done_writing()
        return [decode_value(decode_payload(response.item)) async for response in call]

    async def reserve(self, **fields: Any) -> Any:
        """Reserves, and gives the whole answer."""
        if "ttl_s" in fields:
            fields["ttl"] = encode_duration(fields.pop("ttl_s"))
        return await self.stub.ReserveSlot(replica_pb2.ReserveSlotRequest(**fields), timeout=WAIT_S)

    async def token(self, **fields: Any) -> str:
        """Reserves, and gives the token."""
        answer = await self.reserve(**fields)
        assert answer.accepted
        return str(answer.lease.slot_token)

    async def until_load(self, ongoing: int, reserved: int) -> None:
        """Waits until the load is so."""
        changed = asyncio.Event()
        self.app.desk.on_change(changed.set)
        async with asyncio.timeout(WAIT_S):
            while self.app.desk.load[:2] != (ongoing, reserved):
                await changed.wait()
                changed.clear()


def _value(item: Any) -> Any:
    from serve_core.model.payload import Encoding
    from serve_core.wire.codec import encode_value

    return encode_value(item, like=Encoding.MSGPACK)


def request(method: str, *args: Any, token: str = "", **fields: Any) -> replica_pb2.DispatchRequest:
    """A request to dispatch."""
    arguments = encode_payload(encode_arguments(args, fields.pop("kwargs", {})))
    return replica_pb2.DispatchRequest(method=method, arguments=arguments, slot_token=token, **fields)


async def refused(call: Any) -> Any:
    """The error of ours that a call ends in."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    known = decode_error(caught.value)
    assert known is not None, caught.value
    return known


def write_module(tmp_path: Path, source: str) -> str:
    """Writes user code, and gives its module's name."""
    name = f"user_code_{next(_modules)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    return name


def spec_of(tmp_path: Path, source: str, target: str = "App", **changes: Any) -> DeploymentSpec:
    """A deployment of user code."""
    module = write_module(tmp_path, source)
    spec = DeploymentSpec(name="dep", import_path=f"{module}:{target}", working_dir=str(tmp_path))
    return replace(spec, **changes)


@asynccontextmanager
async def controller_of(spec: DeploymentSpec) -> AsyncIterator[tuple[FakeController, str]]:
    """A controller that listens."""
    controller = FakeController(spec)
    server = Server("127.0.0.1", 0)
    methods: dict[str, Any] = {
        "Attach": grpc.stream_stream_rpc_method_handler(
            controller.attach,
            request_deserializer=controller_pb2.AttachRequest.FromString,
            response_serializer=controller_pb2.AttachResponse.SerializeToString,
        ),
        "SaveActorState": grpc.stream_unary_rpc_method_handler(
            controller.save,
            request_deserializer=controller_pb2.SaveActorStateRequest.FromString,
            response_serializer=controller_pb2.SaveActorStateResponse.SerializeToString,
        ),
        "LoadActorState": grpc.unary_stream_rpc_method_handler(
            controller.load,
            request_deserializer=controller_pb2.LoadActorStateRequest.FromString,
            response_serializer=controller_pb2.LoadActorStateResponse.SerializeToString,
        ),
    }
    service = grpc.method_handlers_generic_handler("serve_core.v1.ControllerService", methods)
    server.add_generic_handlers([service])
    address = await server.start()
    try:
        yield controller, address
    finally:
        await server.stop(0)


@asynccontextmanager
async def attached(
    spec: DeploymentSpec,
    *,
    gang: Gang | None = None,
    actor: ActorAssignment | None = None,
    stored: bytes | None = None,
) -> AsyncIterator[Running]:
    """A replica that was started, ready or not; a member of ``gang``, or of one of its own. Or an actor."""
    async with controller_of(spec) as (controller, address):
        controller.actor, controller.stored = actor, stored
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        controller.gang = gang or controller.gang
        replica_id = REPLICA_ID if gang is None else member_id(gang.gang_id, gang.rank)
        role = REPLICA if actor is None else ACTOR
        config = ReplicaConfig(controller=address, replica_id=replica_id, epoch=EPOCH, role=role)
        environ: dict[str, str] = {}
        app = ReplicaApp(config, on_listening=listening.set_result, environ=environ)
        stop = asyncio.Event()
        task = asyncio.ensure_future(app.run(stop))
        channel = open_channel(await listening)
        stub = replica_pb2_grpc.ReplicaServiceStub(channel)
        try:
            yield Running(app, controller, channel, stub, task, stop, environ)
        finally:
            await channel.close()
            controller.send(stop=controller_pb2.StopCommand())
            stop.set()
            async with asyncio.timeout(WAIT_S):
                await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                app.desk.check()


@asynccontextmanager
async def ready(tmp_path: Path, source: str, target: str = "App", **changes: Any) -> AsyncIterator[Running]:
    """A replica that takes requests."""
    async with attached(spec_of(tmp_path, source, target, **changes)) as running:
        await running.controller.phase(ReplicaPhase.READY)
        yield running
