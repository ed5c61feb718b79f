"""ReplicaService: slots, calls and watches, as the wire has them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Never

import grpc

from replica.barrier import BarrierDesk
from replica.calls import Calls, Claim, Context
from replica.core.barrier import Visit
from replica.desk import SlotDesk
from replica.lane import GangLane
from replica.state import ReplicaState
from replica.watch import Watchers
from replica.worker import Worker
from serve_core import __version__
from serve_core.errors import ConfigInvalidError, FieldViolation, ServeError
from serve_core.link.links import Links
from serve_core.model.ids import OwnerId
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease
from serve_core.runtime import clock
from serve_core.runtime.handlers import at_once
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from serve_core.wire import errors
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import decode_duration, fill_duration, fill_time, invalid
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY, format_load
from serve_core.wire.payload import decode_call_arguments, decode_payload, fill_payload
from serve_core.wire.replica import (
    encode_load,
    encode_method,
    encode_phase,
    encode_replica,
    encode_user_service,
    fill_load,
)
from serve_core.wire.slots import decode_ttl, encode_rejection, encode_slot_counters, fill_lease

SPELLED_MAX = 16
"""Kinds of promises, by slots and time to live, that are kept spelled, as far as they have it in common."""

Trailers = tuple[tuple[str, str], ...]


def own_trailers(desk: SlotDesk) -> Trailers:
    """What tells a router that a status came from the replica itself, and how full it is."""
    return ((REPLICA_KEY, desk.replica_id), (LOAD_KEY, format_load(desk.load)))


class Aborter:
    """Ends calls with errors of ours, in a way that proves that they came from this replica."""

    def __init__(self, desk: SlotDesk) -> None:
        self._desk = desk

    async def __call__(self, context: Context, error: ServeError) -> Never:
        """Ends the call of ``context``."""
        await errors.abort(context, error, extra_trailers=own_trailers(self._desk))


class ReplicaServicer(replica_pb2_grpc.ReplicaServiceServicer):
    """Serves ReplicaService. Errors are raised, for the server to answer with.

    Args:
        state: Who the replica is and what it offers.
        desk: Its slots.
        calls: The calls that run.
        worker: Runs the user's methods.
        watchers: The streams of WatchLoad.
        barriers: Where the gang's members meet, if this is their leader.
        lane: Takes the calls of the gang's other members.
        links: Links to the methods of this server; None means that there are none.
    """

    def __init__(
        self,
        *,
        state: ReplicaState,
        desk: SlotDesk,
        calls: Calls,
        worker: Worker,
        watchers: Watchers,
        barriers: BarrierDesk,
        lane: GangLane,
        links: Links | None,
    ) -> None:
        self._state = state
        self._desk = desk
        self._calls = calls
        self._worker = worker
        self._watchers = watchers
        self._barriers = barriers
        self._lane = lane
        self._links = links
        self._spelled_for: Replica | None = None
        self._spelled: dict[tuple[int, float], bytes] = {}

    async def GetReplica(  # noqa: N802
        self, request: replica_pb2.GetReplicaRequest, context: Context
    ) -> replica_pb2.GetReplicaResponse:
        """Everything about the replica."""
        del request, context
        return replica_pb2.GetReplicaResponse(
            replica=encode_replica(self._state.replica),
            phase=encode_phase(self._state.phase),
            load=encode_load(self._desk.load),
            methods=[encode_method(method) for method in self._state.methods.described],
            services=[encode_user_service(service) for service in self._state.services],
            counters=encode_slot_counters(self._desk.counters),
            version=__version__,
        )

    @at_once
    def ReserveSlot(  # noqa: N802
        self, request: replica_pb2.ReserveSlotRequest
    ) -> replica_pb2.ReserveSlotResponse:
        """Promises slots, all or none."""
        desk = self._desk
        answer = desk.reserve(
            slots=request.slots or 1,
            ttl_s=decode_ttl(request) if request.HasField("ttl") else None,
            request_id=request.request_id,
            owner=_owner(request.owner_id),
        )
        if isinstance(answer, Lease):
            response = self._answer(answer.slots, answer.ttl_s)
            message = response.lease
            message.slot_token = str(answer.token)
            fill_time(message.expire_time, _wall(answer.expires_at))
        else:
            response = self._answer(0, 0.0)
            response.rejection = encode_rejection(answer)
        fill_load(response.load, desk.load)
        return response

    def _answer(self, slots: int, ttl_s: float) -> replica_pb2.ReserveSlotResponse:
        """What one answer after the other has in common: who gives it, and what is promised, which is nothing if ``slots`` is 0. It
        is spelled once.
        """
        replica = self._state.replica
        if self._spelled_for is not replica:
            self._spelled_for, self._spelled = replica, {}
        raw = self._spelled.get((slots, ttl_s))
        if raw is None:
            raw = self._spell(replica, slots, ttl_s)
        return replica_pb2.ReserveSlotResponse.FromString(raw)

    def _spell(self, replica: Replica, slots: int, ttl_s: float) -> bytes:
        response = replica_pb2.ReserveSlotResponse(replica=encode_replica(replica))
        if slots:
            response.accepted = True
            response.lease.slots = slots
            fill_duration(response.lease.ttl, ttl_s)
        if len(self._spelled) >= SPELLED_MAX:
            self._spelled.clear()
        raw = self._spelled[slots, ttl_s] = response.SerializeToString()
        return raw

    @at_once
    def ReleaseSlot(  # noqa: N802
        self, request: replica_pb2.ReleaseSlotRequest
    ) -> replica_pb2.ReleaseSlotResponse:
        """Gives a promise back."""
        released = self._desk.release(request.slot_token)
        return replica_pb2.ReleaseSlotResponse(released=released, load=encode_load(self._desk.load))

    @at_once
    def RenewSlot(  # noqa: N802
        self, request: replica_pb2.RenewSlotRequest
    ) -> replica_pb2.RenewSlotResponse:
        """Starts a promise's time to live anew."""
        lease = self._desk.renew(request.slot_token, ttl_s=decode_ttl(request), detach=request.detach)
        response = replica_pb2.RenewSlotResponse()
        fill_lease(response.lease, lease, expire_time=_wall(lease.expires_at))
        fill_load(response.load, self._desk.load)
        return response

    async def Dispatch(  # noqa: N802
        self, request: replica_pb2.DispatchRequest, context: Context
    ) -> replica_pb2.DispatchResponse:
        """Calls a method with one answer."""
        if request.HasField("gang"):
            return await self._lane.dispatch(request, context)
        asked = context.invocation_metadata()
        if asked:
            self._calls.require_meant(asked)
        self._desk.require_open()
        method = self._state.methods.find(request.method, stream=False)
        arguments = decode_call_arguments(request)
        calls, desk, line = self._calls, self._desk, self._calls.line
        if line is None:
            token, slots, owner = request.slot_token, request.slots or 1, _owner(request.owner_id)
            occupancy = desk.admit(token=token, slots=slots, owner=owner)
        else:
            occupancy = await line(_claim(request))
        with calls.inside(occupancy, context, method=method.name, request_id=request.request_id):
            result = await self._worker.call(method, arguments, occupancy)
        response = replica_pb2.DispatchResponse()
        fill_payload(response.result, result)
        fill_load(response.load, desk.load)
        return response

    async def DispatchStream(  # type: ignore[override]  # noqa: N802 - a coroutine that writes is as good
        self, request_iterator: AsyncIterator[replica_pb2.DispatchStreamRequest], context: Context
    ) -> None:
        """Calls a method that streams."""
        self._calls.require_meant(context.invocation_metadata())
        self._desk.require_open()
        opening = await _opening(request_iterator)
        if opening.HasField("gang"):
            raise invalid("open.gang", "members of a gang do not stream to each other", what="the stream")
        method = self._state.methods.find(opening.method, stream=True)
        arguments = decode_call_arguments(opening, field="open.arguments")
        occupancy = await self._calls.admit(_claim(opening))
        with self._calls.inside(occupancy, context, method=method.name, request_id=opening.request_id):
            items = _items(request_iterator, method.item_hint)
            outputs = self._worker.stream(method, arguments, items, occupancy)
            async with contextlib.aclosing(outputs):  # type: ignore[type-var]
                async for output in outputs:
                    response = replica_pb2.DispatchStreamResponse()
                    fill_payload(response.item, output)
                    await context.write(response)
        context.set_trailing_metadata(own_trailers(self._desk))

    async def Link(  # type: ignore[override]  # noqa: N802 - as DispatchStream
        self, request_iterator: AsyncIterator[replica_pb2.LinkRequest], context: Context
    ) -> None:
        """Carries many calls at once."""
        del request_iterator
        if self._links is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there are no links to this replica")
        await self._links.serve(context)

    async def WatchLoad(  # noqa: N802
        self, request: replica_pb2.WatchLoadRequest, context: Context
    ) -> AsyncIterator[replica_pb2.WatchLoadResponse]:
        """The load, and each push of it. The owner's promises end with the stream."""
        del context
        news = self._watchers.watch(OwnerId(request.owner_id))
        async with contextlib.aclosing(news):  # type: ignore[type-var]
            async for load, phase in news:
                yield replica_pb2.WatchLoadResponse(load=encode_load(load), phase=encode_phase(phase))

    async def JoinBarrier(  # noqa: N802
        self, request: replica_pb2.JoinBarrierRequest, context: Context
    ) -> replica_pb2.JoinBarrierResponse:
        """Waits until every member of the gang has come."""
        del context
        visit = Visit(epoch=request.gang_epoch, rank=request.rank, name=request.name, round=request.round)
        timeout_s = decode_duration(request.timeout) if request.HasField("timeout") else None
        missing = await self._barriers.meet(request.gang_id, visit, timeout_s=timeout_s)
        return replica_pb2.JoinBarrierResponse(missing_ranks=missing)


def _owner(owner_id: str) -> OwnerId | None:
    return OwnerId(owner_id) if owner_id else None


def _claim(request: replica_pb2.DispatchRequest) -> Claim:
    return Claim(token=request.slot_token, slots=request.slots or 1, owner=_owner(request.owner_id))


def _wall(monotonic_s: float) -> float:
    """The time of the wall clock at a time of the monotonic one."""
    return clock.wall() + (monotonic_s - clock.monotonic())


async def _opening(requests: AsyncIterator[replica_pb2.DispatchStreamRequest]) -> replica_pb2.DispatchRequest:
    first = await anext(requests, None)
    if first is None or not first.HasField("open"):
        raise ConfigInvalidError((FieldViolation("open", "must be the first message"),), what="the stream")
    return first.open


async def _items(requests: AsyncIterator[replica_pb2.DispatchStreamRequest], hint: Any) -> AsyncIterator[Any]:
    async for request in requests:
        if not request.HasField("item"):
            raise ConfigInvalidError((FieldViolation("open", "can only be the first message"),), what="the stream")
        yield decode_value(decode_payload(request.item, field="item"), hint, field="item")
