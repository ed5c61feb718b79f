"""A router's gRPC entrance in front of in-process replicas that serve the user's service."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from router.forward import Router
from router.gate import Gate
from router.ingress import Ingress
from router.observe import Observer
from router.observed import ObservedServicer
from router.passage import Door
from router.passthrough import Passthrough
from router.service import RouterService
from router.slot_requests import SlotRequests
from serve_core.link.service import LinkService
from serve_core.link.stream import serve_stream
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, RouterId, SlotToken
from serve_core.model.load import Load
from serve_core.model.replica import Gang, Replica, ReplicaPhase
from serve_core.model.slots import Lease, Rejection
from serve_core.runtime.channel import message_limit
from serve_core.runtime.clock import monotonic
from serve_core.runtime.server import Server
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, replica_pb2_grpc, router_pb2_grpc
from serve_core.wire.replica import encode_load
from serve_core.wire.slots import encode_lease, encode_rejection
from tests.shell.router_entrances.user_service import USER_SERVICE, EchoService, Wire
from tests.shell.ways import Offer

KEY = DeploymentKey("shop", "echo")
LIMIT = 1_000_000


class SlotDesk(replica_pb2_grpc.ReplicaServiceServicer):
    """Promises slots without end, and remembers what became of them."""

    def __init__(self, replica_id: str) -> None:
        self.replica_id = replica_id
        self.issued: list[str] = []
        self.released: list[str] = []
        self.full = False
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.news = asyncio.Event()
        self.watched = asyncio.Event()
        self.watches = 0
        self.watches_end = asyncio.Event()
        self.links: LinkService | None = None

    async def Link(self, requests: Any, context: Any) -> None:  # type: ignore[override]
        if not Offer.links:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no links")
        assert self.links is not None
        await serve_stream(self.links, context)

    async def WatchLoad(self, request: Any, context: Any) -> AsyncIterator[replica_pb2.WatchLoadResponse]:
        yield replica_pb2.WatchLoadResponse(load=encode_load(Load(0, 0, 8)), phase=ReplicaPhase.READY.value)  # type: ignore[arg-type]
        self.watched.set()
        self.watches += 1
        await self.watches_end.wait()

    async def ReserveSlot(self, request: Any, context: Any) -> replica_pb2.ReserveSlotResponse:
        self.asked.set()
        await self.may_answer.wait()
        if self.full:
            rejection = encode_rejection(Rejection.FULL)
            return replica_pb2.ReserveSlotResponse(rejection=rejection, load=encode_load(Load(8, 0, 8)))
        token = SlotToken(f"{len(self.issued):032x}", 1, ReplicaId(self.replica_id))
        self.issued.append(str(token))
        lease = Lease(token=token, slots=request.slots or 1, ttl_s=10.0, expires_at=0.0)
        return replica_pb2.ReserveSlotResponse(
            accepted=True, lease=encode_lease(lease, expire_time=2e9), load=encode_load(Load(0, 1, 8))
        )

    async def ReleaseSlot(self, request: Any, context: Any) -> replica_pb2.ReleaseSlotResponse:
        self.released.append(request.slot_token)
        self.news.set()
        return replica_pb2.ReleaseSlotResponse(released=True, load=encode_load(Load(0, 0, 8)))

    async def RenewSlot(self, request: replica_pb2.RenewSlotRequest, context: Any) -> replica_pb2.RenewSlotResponse:
        token = SlotToken.parse(request.slot_token)
        assert token is not None
        lease = Lease(token=token, slots=1, ttl_s=10.0, expires_at=0.0)
        return replica_pb2.RenewSlotResponse(lease=encode_lease(lease, expire_time=2e9))

    async def JoinBarrier(self, request: Any, context: Any) -> replica_pb2.JoinBarrierResponse:
        return replica_pb2.JoinBarrierResponse()

    async def GetReplica(self, request: Any, context: Any) -> replica_pb2.GetReplicaResponse:
        return replica_pb2.GetReplicaResponse()

    async def Dispatch(self, request: replica_pb2.DispatchRequest, context: Any) -> replica_pb2.DispatchResponse:
        return replica_pb2.DispatchResponse(result=request.arguments, load=encode_load(Load(0, 0, 8)))

    async def DispatchStream(
        self, requests: AsyncIterator[replica_pb2.DispatchStreamRequest], context: Any
    ) -> AsyncIterator[replica_pb2.DispatchStreamResponse]:
        async for request in requests:
            item = request.item if request.HasField("item") else request.open.arguments
            yield replica_pb2.DispatchStreamResponse(item=item)


@dataclass
class FakeReplica:
    replica_id: str
    echo: EchoService
    desk: SlotDesk
    server: Server
    wire: Wire

    @property
    def token(self) -> str:
        """A token that names this replica."""
        return f"{'a' * 32}.1.{self.replica_id}"


@dataclass
class Entrance:
    """The router's end, and the caller's."""

    router: Router
    gate: Gate
    registry: CollectorRegistry
    server: Server
    channel: grpc.aio.Channel
    address: str
    replicas: list[FakeReplica]
    requests: SlotRequests
    keys: list[DeploymentKey] = field(default_factory=lambda: [KEY])

    @property
    def echo(self) -> EchoService:
        return self.replicas[0].echo

    @property
    def stub(self) -> router_pb2_grpc.RouterServiceAsyncStub:
        """The router's own service."""
        stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(self.channel)
        return stub

    def unary(self, request: bytes, **options: Any) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary("/test.v1.Echo/Unary")
        return method(request, **options)

    def count(self, request: bytes, **options: Any) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream("/test.v1.Echo/Count")
        return method(request, **options)

    def join(self, requests: Any = None, **options: Any) -> grpc.aio.StreamUnaryCall[bytes, bytes]:
        method: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = self.channel.stream_unary("/test.v1.Echo/Join")
        return method(requests, **options)

    def chat(self, requests: Any = None, **options: Any) -> grpc.aio.StreamStreamCall[bytes, bytes]:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream("/test.v1.Echo/Chat")
        return method(requests, **options)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def route(key: DeploymentKey = KEY, **changes: Any) -> DeploymentRoute:
    fields: dict[str, Any] = {"key": key, "ingress": True, "available": True, "services": (USER_SERVICE,)}
    return DeploymentRoute(**(fields | changes))


def replica_value(fake: FakeReplica, key: DeploymentKey = KEY, *, gang: Gang | None = None) -> Replica:
    return Replica(
        replica_id=ReplicaId(fake.replica_id),
        key=key,
        revision=RevisionId("v1"),
        epoch=1,
        address=fake.wire.address,
        node_id=NodeId("node-0"),
        gang=gang or Gang(gang_id=GangId(f"gang-{fake.replica_id}")),
    )


@asynccontextmanager
async def fake_replica(replica_id: str, limit: int = LIMIT) -> AsyncIterator[FakeReplica]:
    server = Server("127.0.0.1", 0, max_message_bytes=limit)
    echo, desk = EchoService(replica_id), SlotDesk(replica_id)
    server.add(replica_pb2_grpc.add_ReplicaServiceServicer_to_server, desk)
    server.add_generic_handlers([echo])
    desk.links = LinkService(server.handler, running=server.tasks, limit_bytes=message_limit(limit))
    wire = Wire(await server.start())
    await wire.start()
    try:
        yield FakeReplica(replica_id, echo, desk, server, wire)
    finally:
        desk.watches_end.set()
        await wire.close()
        await server.stop(0)


@asynccontextmanager
async def entrance(*replicas: FakeReplica, limit: int = LIMIT, opened: bool = True) -> AsyncIterator[Entrance]:
    """A router that routes KEY to the replicas, connected to all of them."""
    async with Supervisor("router under test") as tasks:
        router = Router(router_id=RouterId("router-1"), tasks=tasks, max_message_bytes=limit)
        gate, registry = Gate("router-1"), CollectorRegistry()
        if opened:
            gate.open()
        observer = Observer(registry, monotonic=monotonic)
        numbers = itertools.count(1)
        door = Door(
            passthrough=Passthrough(router, observer),
            gate=gate,
            observer=observer,
            max_message_bytes=limit,
            new_request_id=lambda: f"minted-{next(numbers)}",
        )
        server = Server("127.0.0.1", 0, max_message_bytes=limit)
        requests = SlotRequests(router, path="/serve_core.v1.RouterService/ReserveSlot", gate=gate, observer=observer)
        service = ObservedServicer(
            RouterService(router, tasks),
            service="serve_core.v1.RouterService",
            gate=gate,
            observer=observer,
            begins={"ReserveSlot": requests.begin},
        )
        server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, service)
        server.add_generic_handlers([Ingress(router, door)])
        address = await server.start()
        router.apply(
            TableChange(
                version=TableVersion("e", 1),
                snapshot=True,
                upserted_deployments=(route(),),
                upserted_replicas=tuple(replica_value(replica) for replica in replicas),
            )
        )
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            for replica in replicas:
                await replica.desk.watched.wait()
            try:
                yield Entrance(router, gate, registry, server, channel, address, list(replicas), requests)
            finally:
                await server.stop(0)
                await router.close()
