"""A controller and replicas that are as simple as can be, behind real gRPC servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from router.forward import Router
from serve_core.errors import DrainingError, NoSlotError, ServeError, SlotConsumedError, SlotUnknownError
from serve_core.link.service import LinkService
from serve_core.link.stream import serve_stream
from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey, GangId, NodeId, ReplicaId, RevisionId, SlotToken
from serve_core.model.load import Load
from serve_core.model.replica import Gang, Replica, ReplicaPhase
from serve_core.model.slots import Lease
from serve_core.runtime.address import held_port
from serve_core.runtime.clock import monotonic, wall
from serve_core.runtime.handlers import GuardedRegistration, abort_plainly
from serve_core.v1 import controller_pb2, controller_pb2_grpc, replica_pb2, replica_pb2_grpc, types_pb2
from serve_core.wire.endpoints import decode_table_version, encode_table_change
from serve_core.wire.errors import abort
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY, format_load
from serve_core.wire.replica import encode_load, encode_replica
from serve_core.wire.slots import encode_lease
from tests.shell.ways import Offer

KEY = DeploymentKey("shop", "Model")
Context = grpc.aio.ServicerContext[Any, Any]


class FakeReplica(replica_pb2_grpc.ReplicaServiceServicer):
    """A replica with a ledger of plain counters. ``work`` is the user's method; by default it echoes."""

    def __init__(
        self,
        name: str = "shop.Model.a-0",
        *,
        capacity: int = 2,
        key: DeploymentKey = KEY,
        gang: Gang | None = None,
    ) -> None:
        self.name = ReplicaId(name)
        self.gang = gang or Gang(gang_id=GangId(f"{name}-gang"))
        self.key = key
        self.capacity = capacity
        self.phase = ReplicaPhase.READY
        self.port = 0
        self.address = ""
        self.ongoing = 0
        self.most_ongoing = 0
        self.tokens: dict[str, tuple[str, int]] = {}
        self.requests: dict[str, str] = {}
        self.served: list[str] = []
        self.refused = 0
        self.renewed: list[replica_pb2.RenewSlotRequest] = []
        self.ttl_s = 10.0
        self.epoch = 1
        self.reserve_gate: asyncio.Event | None = None
        self.refuses: ServeError | None = None
        self.work: Callable[[replica_pb2.DispatchRequest], Awaitable[bytes]] = self._echo
        self.changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._links: LinkService | None = None
        self.links_asked_for = 0
        self.offer: tuple[tuple[str, str], ...] = ()
        self._watches: dict[str, asyncio.Queue[replica_pb2.WatchLoadResponse]] = {}
        self._owed: set[str] = set()

    async def start(self) -> None:
        """Listens on its port, which ``running`` keeps for it."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        replica_pb2_grpc.add_ReplicaServiceServicer_to_server(self, self._server)
        methods: Any = GuardedRegistration(abort_plainly)
        replica_pb2_grpc.add_ReplicaServiceServicer_to_server(self, methods)
        known = {
            f"/{name}/{method}": one
            for name, each in methods.registered_handlers.items()
            for method, one in each.items()
        }
        self._links = LinkService(known.get, running=set(), limit_bytes=2**26)
        self.address = f"127.0.0.1:{self.port}"
        self._server.add_insecure_port(self.address)
        await self._server.start()

    @property
    def links(self) -> LinkService:
        """Its links."""
        assert self._links is not None
        return self._links

    async def stop(self) -> None:
        """Cuts every connection at once, as a killed process does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    @property
    def replica(self) -> Replica:
        """Itself, as the table has it."""
        return Replica(
            replica_id=self.name,
            key=self.key,
            revision=RevisionId("r1"),
            epoch=self.epoch,
            address=self.address,
            node_id=NodeId("node-0"),
            zone="zone-a",
            gang=self.gang,
            metadata={"color": "blue"},
        )

    @property
    def load(self) -> Load:
        """What it holds."""
        return Load(self.ongoing, sum(slots for _, slots in self.tokens.values()), self.capacity)

    @property
    def watchers(self) -> int:
        """Open load watches."""
        return len(self._watches)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds that changes with requests."""
        async with asyncio.timeout(60):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    def take(self, slots: int = 1) -> None:
        """Somebody else takes slots."""
        self.ongoing += slots

    def free(self, slots: int = 1) -> None:
        """Slots are free again: whoever is owed a push gets it."""
        self.ongoing -= slots
        self._moved()

    def set_phase(self, phase: ReplicaPhase) -> None:
        """Changes its phase, and tells."""
        self.phase = phase
        for queue in self._watches.values():
            queue.put_nowait(self._told())

    async def JoinBarrier(
        self, request: replica_pb2.JoinBarrierRequest, context: Context
    ) -> replica_pb2.JoinBarrierResponse:
        return replica_pb2.JoinBarrierResponse()

    async def GetReplica(
        self, request: replica_pb2.GetReplicaRequest, context: Context
    ) -> replica_pb2.GetReplicaResponse:
        return replica_pb2.GetReplicaResponse(replica=encode_replica(self.replica))

    async def Link(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        if not Offer.links or self._links is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no links")
        self.links_asked_for += 1
        await serve_stream(self._links, context, self.offer)

    async def WatchLoad(
        self, request: replica_pb2.WatchLoadRequest, context: Context
    ) -> AsyncIterator[replica_pb2.WatchLoadResponse]:
        queue: asyncio.Queue[replica_pb2.WatchLoadResponse] = asyncio.Queue()
        self._watches[request.owner_id] = queue
        self.changed.set()
        try:
            yield self._told()
            while True:
                yield await queue.get()
        finally:
            del self._watches[request.owner_id]
            self.tokens = {token: held for token, held in self.tokens.items() if held[0] != request.owner_id}
            self.changed.set()

    async def ReserveSlot(
        self, request: replica_pb2.ReserveSlotRequest, context: Context
    ) -> replica_pb2.ReserveSlotResponse:
        if self.reserve_gate is not None:
            self.changed.set()
            await self.reserve_gate.wait()
        known = self.requests.get(request.request_id) if request.request_id else None
        known = known if known in self.tokens else None
        rejection = None if known else self._rejection(request.slots)
        if rejection:
            self._refuse(request.owner_id)
            return replica_pb2.ReserveSlotResponse(rejection=rejection, load=encode_load(self.load))
        text = known or str(SlotToken(uuid.uuid4().hex, self.epoch, self.name))
        self.tokens[text] = (request.owner_id, request.slots)
        self.requests[request.request_id] = text
        self.changed.set()
        return replica_pb2.ReserveSlotResponse(
            accepted=True, lease=self._lease(text), load=encode_load(self.load), replica=encode_replica(self.replica)
        )

    async def ReleaseSlot(
        self, request: replica_pb2.ReleaseSlotRequest, context: Context
    ) -> replica_pb2.ReleaseSlotResponse:
        released = self.tokens.pop(request.slot_token, None) is not None
        self._moved()
        return replica_pb2.ReleaseSlotResponse(released=released, load=encode_load(self.load))

    async def RenewSlot(self, request: replica_pb2.RenewSlotRequest, context: Context) -> replica_pb2.RenewSlotResponse:
        self.renewed.append(request)
        self.changed.set()
        if request.slot_token not in self.tokens:
            await abort(context, SlotUnknownError("unknown token"))
        if request.detach:
            self.tokens[request.slot_token] = ("", self.tokens[request.slot_token][1])
        return replica_pb2.RenewSlotResponse(lease=self._lease(request.slot_token), load=encode_load(self.load))

    async def Dispatch(self, request: replica_pb2.DispatchRequest, context: Context) -> replica_pb2.DispatchResponse:
        slots = await self._admit(request, context)
        try:
            data = await self.work(request)
        finally:
            self._end(slots)
        return replica_pb2.DispatchResponse(
            result=types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=data), load=encode_load(self.load)
        )

    async def DispatchStream(
        self, request_iterator: AsyncIterator[replica_pb2.DispatchStreamRequest], context: Context
    ) -> AsyncIterator[replica_pb2.DispatchStreamResponse]:
        opening = (await anext(aiter(request_iterator))).open
        slots = await self._admit(opening, context)
        try:
            yield replica_pb2.DispatchStreamResponse(item=opening.arguments)
            async for message in request_iterator:
                yield replica_pb2.DispatchStreamResponse(item=message.item)
        finally:
            self._end(slots)
            context.set_trailing_metadata(((REPLICA_KEY, self.name), (LOAD_KEY, format_load(self.load))))

    @staticmethod
    async def _echo(request: replica_pb2.DispatchRequest) -> bytes:
        return request.arguments.data

    async def _admit(self, request: replica_pb2.DispatchRequest, context: Context) -> int:
        trailers = ((REPLICA_KEY, self.name), (LOAD_KEY, format_load(self.load)))
        slots = max(1, request.slots)
        if self.refuses is not None:
            await abort(context, self.refuses, extra_trailers=trailers)
        if request.slot_token:
            if request.slot_token not in self.tokens:
                await abort(context, SlotConsumedError("token used"), extra_trailers=trailers)
            _, slots = self.tokens.pop(request.slot_token)
        elif rejection := self._rejection(slots):
            self._refuse(request.owner_id)
            draining = rejection == replica_pb2.REJECTION_REASON_DRAINING
            error = DrainingError("draining") if draining else NoSlotError("full")
            await abort(context, error, extra_trailers=trailers)
        self.ongoing += slots
        self.most_ongoing = max(self.most_ongoing, self.ongoing)
        self.served.append(request.request_id)
        self.changed.set()
        return slots

    def _end(self, slots: int) -> None:
        self.ongoing -= slots
        self._moved()

    def _rejection(self, slots: int) -> replica_pb2.RejectionReason.ValueType | None:
        if self.phase is not ReplicaPhase.READY:
            return replica_pb2.REJECTION_REASON_DRAINING
        if slots > self.capacity:
            return replica_pb2.REJECTION_REASON_TOO_MANY
        return replica_pb2.REJECTION_REASON_FULL if slots > self.load.free else None

    def _refuse(self, owner_id: str) -> None:
        self.refused += 1
        self._owed.add(owner_id)
        self.changed.set()

    def _moved(self) -> None:
        for owner_id in self._owed & self._watches.keys():
            self._watches[owner_id].put_nowait(self._told())
        self._owed.clear()
        self.changed.set()

    def _told(self) -> replica_pb2.WatchLoadResponse:
        return replica_pb2.WatchLoadResponse(load=encode_load(self.load), phase=self.phase.value)  # type: ignore[arg-type]

    def _lease(self, text: str) -> types_pb2.SlotLease:
        token = SlotToken.parse(text)
        assert token is not None
        slots = self.tokens[text][1]
        lease = Lease(token=token, slots=slots, ttl_s=self.ttl_s, expires_at=monotonic() + self.ttl_s)
        return encode_lease(lease, expire_time=wall() + self.ttl_s)


def gang(name: str, *, size: int = 3, capacity: int = 1, epoch: int = 1) -> list[FakeReplica]:
    """The members of one gang, by rank."""
    gang_id = GangId(f"shop.Model.{name}")
    places = [Gang(gang_id=gang_id, rank=rank, size=size, epoch=epoch) for rank in range(size)]
    return [FakeReplica(f"{gang_id}-{place.rank}", capacity=capacity, gang=place) for place in places]


class FakeController(controller_pb2_grpc.ControllerServiceServicer):
    """A controller that tells a table, and notes what is acknowledged."""

    def __init__(self) -> None:
        self.port = 0
        self.address = ""
        self.epoch = "e1"
        self.version = 0
        self.subscriptions: list[controller_pb2.WatchEndpointsRequest] = []
        self.acknowledged: list[TableVersion] = []
        self.changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._current: TableChange | None = None
        self._subscribers: list[asyncio.Queue[TableChange]] = []

    async def start(self) -> None:
        """Listens on its port, which ``running`` keeps for it."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self.port}"
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Cuts every connection."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def publish(self, *replicas: FakeReplica, available: bool = True, maximum: int = 1000) -> None:
        """Tells a whole table with these replicas."""
        self.version += 1
        self._current = table(self.version, *replicas, available=available, maximum=maximum, epoch=self.epoch)
        for queue in self._subscribers:
            queue.put_nowait(self._current)

    def send(self, change: TableChange) -> None:
        """Tells any change to who is subscribed."""
        for queue in self._subscribers:
            queue.put_nowait(change)

    async def until_acknowledged(self, version: int) -> None:
        """Waits until this version is acknowledged."""
        async with asyncio.timeout(60):
            while all(known.version != version for known in self.acknowledged):
                self.changed.clear()
                await self.changed.wait()

    async def until_subscribed(self, times: int) -> None:
        """Waits until this many subscriptions were made in all."""
        async with asyncio.timeout(60):
            while len(self.subscriptions) < times:
                self.changed.clear()
                await self.changed.wait()

    async def GetLink(self, request: controller_pb2.GetLinkRequest, context: Context) -> controller_pb2.GetLinkResponse:
        return controller_pb2.GetLinkResponse()

    async def WatchEndpoints(
        self, request_iterator: AsyncIterator[controller_pb2.WatchEndpointsRequest], context: Context
    ) -> AsyncIterator[controller_pb2.WatchEndpointsResponse]:
        self.subscriptions.append(await anext(aiter(request_iterator)))
        self.changed.set()
        queue: asyncio.Queue[TableChange] = asyncio.Queue()
        self._subscribers.append(queue)
        if self._current is not None:
            queue.put_nowait(self._current)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(request_iterator))
            try:
                while True:
                    yield encode_table_change(await queue.get())
            finally:
                self._subscribers.remove(queue)
                reader.cancel()

    async def _read(self, requests: AsyncIterator[controller_pb2.WatchEndpointsRequest]) -> None:
        async for request in requests:
            self.acknowledged.append(decode_table_version(request.acknowledged))
            self.changed.set()


def table(
    version: int,
    *replicas: FakeReplica,
    available: bool = True,
    maximum: int = 1000,
    epoch: str = "e1",
    gang_route: GangRoute = GangRoute.ALL,
) -> TableChange:
    """A whole table: one deployment, an ingress, with these replicas."""
    route = DeploymentRoute(
        key=KEY,
        ingress=True,
        available=available,
        message="" if available else "its constructor fails",
        max_queued_requests=maximum,
        gang_route=gang_route,
    )
    return TableChange(
        version=TableVersion(epoch, version),
        snapshot=True,
        upserted_deployments=(route,),
        upserted_replicas=tuple(replica.replica for replica in replicas),
    )


async def until_connected(router: Router, *replicas: FakeReplica) -> None:
    """Waits until the router may choose these replicas."""
    lane = router._admissions[KEY].lane
    wanted = {replica.name for replica in replicas}
    news = asyncio.Event()
    settle_of = router._admissions[KEY].settle

    def settle() -> None:
        settle_of()
        news.set()

    router._admissions[KEY].settle = settle  # type: ignore[method-assign]
    async with asyncio.timeout(60):
        while not wanted <= {known.replica_id for known in lane.replicas if known.connected}:
            news.clear()
            await news.wait()
    del router._admissions[KEY].settle


async def until_disconnected(router: Router, replica: FakeReplica) -> None:
    """Waits until the router has seen that this replica's connection is cut: a request sent before may have arrived."""
    upstream = router.locate(f"{'0' * 32}.1.{replica.name}")
    channel = upstream._plain
    async with asyncio.timeout(60):
        await upstream.promises_void.wait()
        while (state := channel.get_state()) is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)


@asynccontextmanager
async def running(*parts: FakeReplica | FakeController) -> AsyncIterator[None]:
    """Lets these listen for a block. Their ports stay theirs while they do not."""
    async with AsyncExitStack() as opened:
        for part in parts:
            held = opened.enter_context(held_port("127.0.0.1", 0))
            part.port = int(held.getsockname()[1])
            opened.push_async_callback(part.stop)
            await part.start()
        yield
