"""Promises of slots, asked of replicas and given back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from router.reservation import Held
from router.upstream import Upstream
from serve_core.errors import (
    ConfigInvalidError,
    DrainingError,
    FieldViolation,
    NoSlotError,
    NoSlotInTimeError,
    ReplicaDiedError,
    ServeError,
)
from serve_core.link.call import LinkCall
from serve_core.model.slots import Lease, Rejection
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, types_pb2
from serve_core.wire.fields import decode_duration, fill_duration
from serve_core.wire.replica import decode_load
from serve_core.wire.slots import decode_lease, decode_rejection, encode_ttl

ReserveCall = grpc.aio.UnaryUnaryCall[bytes, bytes] | LinkCall

RESERVE_SLOT = "/serve_core.v1.ReplicaService/ReserveSlot"

ANSWER_TIMEOUT_S = 5.0
"""Replicas answer at once or not at all: one that takes longer counts as out of reach."""


class Reserving:
    """The slot calls to replicas.

    Args:
        tasks: Owns what must come to its end although its caller is gone.
    """

    def __init__(self, tasks: Supervisor) -> None:
        self._tasks = tasks

    def ask(self, upstream: Upstream, *, slots: int, ttl_s: float | None, request_id: str) -> ReserveCall:
        """Asks one replica for a promise."""
        spell = _spelled_with_id if request_id else _spelled
        raw = spell(upstream.owner_id, slots, ttl_s, request_id)
        linked = upstream.send_linked(RESERVE_SLOT, raw, ANSWER_TIMEOUT_S, ())
        return upstream.unary(RESERVE_SLOT)(raw, timeout=ANSWER_TIMEOUT_S) if linked is None else linked

    def sender(
        self,
        *,
        slots: int,
        ttl_s: float | None,
        request_id: str,
        deadline: float | None,
        sent: ReserveCall | None = None,
    ) -> Callable[[Upstream], Awaitable[Lease]]:
        """What asks one replica for a promise. It raises what ``Router.run`` tries elsewhere, or the caller's fault.

        ``sent`` is what the first one was asked by, if it was.
        """

        return _Sender(self, slots, ttl_s, request_id, deadline, sent)

    def granted(self, upstream: Upstream, slots: int, call: LinkCall) -> Held | None:
        """What a replica promised, by a call that is over; None if it did not, which ``sender`` then tells more of."""
        promise = promise_in(call)
        if promise is None:
            return None
        upstream.learn(decode_load(promise.load), freed=slots)
        lease = promise.lease
        ttl_s = decode_duration(lease.ttl)
        upstream.leased(ttl_s)
        return Held(upstream, lease, token=lease.slot_token, ttl_s=ttl_s)

    async def release(self, upstream: Upstream, token: str, *, freed: int = 0, timeout_s: float | None = None) -> bool:
        """Gives a promise back; says whether this freed its slots.

        Raises:
            ReplicaUnavailableError: The replica cannot be reached: the lease ends the promise.
        """
        request = replica_pb2.ReleaseSlotRequest(slot_token=token)
        with upstream.use():
            await upstream.ready(_answer_timeout_s(timeout_s))
            try:
                response = await upstream.stub.ReleaseSlot(request, timeout=_answer_timeout_s(timeout_s))
            except grpc.aio.AioRpcError as error:
                raise _slot_call_error(upstream, error) from error
        upstream.learn(decode_load(response.load), freed=freed)
        return response.released

    async def renew(
        self, upstream: Upstream, token: str, *, ttl_s: float | None, detach: bool, timeout_s: float | None
    ) -> Lease:
        """Starts a promise's time to live anew; see ``Router.renew``."""
        request = replica_pb2.RenewSlotRequest(slot_token=token, ttl=encode_ttl(ttl_s), detach=detach)
        with upstream.use():
            await upstream.ready(_answer_timeout_s(timeout_s))
            try:
                response = await upstream.stub.RenewSlot(request, timeout=_answer_timeout_s(timeout_s))
            except grpc.aio.AioRpcError as error:
                raise _slot_call_error(upstream, error) from error
        return lease_of(upstream, response.lease)

    async def give_back(self, upstream: Upstream, token: str, *, freed: int = 0) -> None:
        """Releases a promise that nobody will use. Comes to its end also when the caller is cancelled."""
        releasing = self._background(self._give_back(upstream, token, freed=freed))
        if releasing is not None:
            await asyncio.shield(releasing)

    def abandon(self, upstream: Upstream, token: str) -> None:
        """Releases a promise in the background, where a dispatch was cut off and may not have reached the replica."""
        self._background(self._give_back(upstream, token, freed=0))

    def _background(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        try:
            return self._tasks.spawn(coro, name="release")
        except RuntimeError:
            return None  # This router is closing: the end of its connections frees its tokens.

    async def _give_back(self, upstream: Upstream, token: str, *, freed: int) -> None:
        try:
            await self.release(upstream, token, freed=freed)
        except ServeError:
            return  # The lease, or the end of the connection, frees the slots.

    def give_up(self, upstream: Upstream, call: ReserveCall) -> None:
        """Gives back what a call may still bring that nobody waits for any more. Ends a use of the connection."""
        if self._background(self._abandon(upstream, call)) is None:
            upstream.end_use()

    async def _abandon(self, upstream: Upstream, call: ReserveCall) -> None:
        try:
            try:
                lease = await _promised(upstream, 0, call)
            finally:
                upstream.end_use()
        except ServeError:
            return
        await self._give_back(upstream, str(lease.token), freed=0)


def ends_first(deadline: float | None) -> bool:
    """Whether a call that asks a replica now ends by itself before ``deadline``, in monotonic seconds."""
    return deadline is None or deadline - monotonic() > ANSWER_TIMEOUT_S


def promise_in(call: LinkCall) -> replica_pb2.ReserveSlotResponse | None:
    """What a call that is over has brought, if it is a promise."""
    raw = call.answer
    if raw is None:
        return None
    try:
        response = replica_pb2.ReserveSlotResponse.FromString(raw)
    except DecodeError:  # Which whoever looks closer tells.
        return None
    return response if response.accepted else None


def _spelled_with_id(owner_id: str, slots: int, ttl_s: float | None, request_id: str) -> bytes:
    request = replica_pb2.ReserveSlotRequest(slots=slots, request_id=request_id, owner_id=owner_id)
    if ttl_s is not None:
        fill_duration(request.ttl, ttl_s)
    return request.SerializeToString()


_spelled = lru_cache(maxsize=4096)(_spelled_with_id)
"""Those without an id are alike."""


class _Sender:
    """Asks replicas in turn. A class, because a closure over as much costs each request more."""

    __slots__ = ("_deadline", "_request_id", "_reserving", "_sent", "_slots", "_ttl_s")

    def __init__(
        self,
        reserving: Reserving,
        slots: int,
        ttl_s: float | None,
        request_id: str,
        deadline: float | None,
        sent: ReserveCall | None,
    ) -> None:
        self._reserving = reserving
        self._slots = slots
        self._ttl_s = ttl_s
        self._request_id = request_id
        self._deadline = deadline
        self._sent = sent

    async def __call__(self, upstream: Upstream) -> Lease:
        # The answer is awaited, not the call: a promise that is under way when the caller goes must be given back.
        upstream.begin_use()
        call, self._sent = self._sent, None
        if call is None:
            call = self._reserving.ask(upstream, slots=self._slots, ttl_s=self._ttl_s, request_id=self._request_id)
        try:
            if self._deadline is None or ends_first(self._deadline):
                await _over(call)
            else:
                async with asyncio.timeout(self._deadline - monotonic()):
                    await _over(call)
        except TimeoutError:
            self._reserving.give_up(upstream, call)
            raise _no_answer_in_time(upstream) from None
        except asyncio.CancelledError:
            self._reserving.give_up(upstream, call)
            raise
        upstream.end_use()
        return await _promised(upstream, self._slots, call)


def _over(call: ReserveCall) -> asyncio.Future[None]:
    """Is done once a call is over, however. Giving up the waiting does not cancel it."""
    if isinstance(call, LinkCall):
        return call.over()
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def over(_: object) -> None:
        if not answered.done():
            answered.set_result(None)

    call.add_done_callback(over)
    return answered


async def _promised(upstream: Upstream, slots: int, call: ReserveCall) -> Lease:
    """What the replica promised. Raises what else it answered, or what became of the call."""
    try:
        raw = call.result() if isinstance(call, LinkCall) and call.done() else await call
    except grpc.aio.AioRpcError as error:
        raise _slot_call_error(upstream, error) from error
    return _answer(upstream, slots, replica_pb2.ReserveSlotResponse.FromString(raw))


def _answer(upstream: Upstream, slots: int, response: replica_pb2.ReserveSlotResponse) -> Lease:
    # An accepted promise is in the load that the answer tells, a refused one is not: neither is told twice.
    upstream.learn(decode_load(response.load), freed=slots)
    if response.accepted:
        return lease_of(upstream, response.lease)
    raise _refusal(upstream, decode_rejection(response.rejection), slots, response.load.capacity)


def _no_answer_in_time(upstream: Upstream) -> NoSlotInTimeError:
    replica_id = upstream.replica.replica_id
    return NoSlotInTimeError(
        f"replica {replica_id} did not answer a reservation within the caller's deadline; allow a longer one",
        details={"replicaId": replica_id},
    )


def lease_of(upstream: Upstream, message: types_pb2.SlotLease) -> Lease:
    """The promise that a replica has made."""
    lease = decode_lease(message)
    upstream.leased(lease.ttl_s)
    return lease


def _refusal(upstream: Upstream, rejection: Rejection, slots: int, capacity: int) -> ServeError:
    replica_id = upstream.replica.replica_id
    details = {"replicaId": replica_id}
    if rejection is Rejection.DRAINING:
        return DrainingError(f"replica {replica_id} is draining: reserve on another one", details=details)
    if rejection is Rejection.TOO_MANY:
        violation = FieldViolation("slots", f"{slots} is more than {capacity}, the slots of replica {replica_id}")
        return ConfigInvalidError([violation], what="the request")
    return NoSlotError(f"every slot of replica {replica_id} is taken", details=details)


def _slot_call_error(upstream: Upstream, error: grpc.aio.AioRpcError) -> ServeError:
    """What a failed slot call means. No user code runs in one, so a loss on the way is never more than that."""
    meant = upstream.translate(error)
    if meant is not None and not isinstance(meant, ReplicaDiedError):
        return meant
    return upstream.unavailable(f"it did not answer ({error.code().name}: {error.details()})")


def _answer_timeout_s(timeout_s: float | None) -> float:
    return ANSWER_TIMEOUT_S if timeout_s is None else min(timeout_s, ANSWER_TIMEOUT_S)
