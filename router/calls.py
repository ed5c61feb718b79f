"""Calls of Python methods, unary and streaming, with or without a token: for the router's service and for handles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple, NoReturn

import grpc
import grpc.aio

from router.forward import Router
from router.limits import check_size
from router.tokens import Part
from router.upstream import Upstream
from serve_core.errors import ConfigInvalidError, MessageTooLargeError, MethodUnknownError
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.load import Load
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, types_pb2
from serve_core.wire.metadata import REPLICA_KEY, load_in
from serve_core.wire.replica import decode_load

Items = AsyncIterator[types_pb2.Payload]
_DispatchCall = grpc.aio.UnaryUnaryCall[replica_pb2.DispatchRequest, replica_pb2.DispatchResponse]
_StreamCall = grpc.aio.StreamStreamCall[replica_pb2.DispatchStreamRequest, replica_pb2.DispatchStreamResponse]

CONNECT_TIMEOUT_S = 2.0

_TOKEN_UNTOUCHED = (MethodUnknownError, ConfigInvalidError, MessageTooLargeError)
"""What a call may be refused with before anyone has looked at its token, which would then hold its slots in vain."""

_MAY_BE_UNTOUCHED = (asyncio.CancelledError, grpc.aio.AioRpcError, *_TOKEN_UNTOUCHED)
"""What a dispatch may end with although nobody has looked at its token."""


class Budget(NamedTuple):
    """Until when a call may wait for a slot, and until when it may last in all: monotonic seconds, None is no end."""

    wait_until: float | None
    end_at: float | None

    @property
    def timeout_s(self) -> float | None:
        """Seconds that are left in all."""
        return None if self.end_at is None else max(0.0, self.end_at - monotonic())

    @property
    def connect_timeout_s(self) -> float:
        """Seconds that a given replica's channel has to become READY."""
        left_s = self.timeout_s
        return CONNECT_TIMEOUT_S if left_s is None else min(CONNECT_TIMEOUT_S, left_s)


class Calls:
    """Sends method calls through a router.

    The methods raise what ``Router.run`` does, SlotError and ReplicaUnavailableError for a token that cannot be used,
    ReplicaDiedError, what the replica answers, and ``grpc.aio.AioRpcError`` for a status that is none of ours, such as
    the end of the caller's deadline.

    Args:
        router: Chooses replicas.
        tasks: Owns the tasks that send streamed arguments.
    """

    def __init__(self, router: Router, tasks: Supervisor) -> None:
        self._router = router
        self._tasks = tasks

    async def unary(
        self, key: DeploymentKey, request: replica_pb2.DispatchRequest, budget: Budget
    ) -> tuple[replica_pb2.DispatchResponse, ReplicaId]:
        """Calls a method with one answer, on the token's replica if ``request`` has one. Returns who ran it, too."""
        self.check_request(request)
        if request.slot_token:
            async with self._router.tokens.open(request.slot_token, key, timeout_s=budget.connect_timeout_s) as part:
                response = await self.dispatch_part(part, request, budget)
                return response, part.upstream.replica.replica_id
        slots = max(1, request.slots)
        going = self._router.begin(key, slots=slots, deadline=budget.wait_until)
        upstream = going.upstream
        if upstream is not None:
            try:
                going.sent = _dispatched(upstream, request, budget)
                response = await going.sent
            except grpc.aio.AioRpcError:
                pass  # What that means, and whether another replica may have the request, is seen below.
            except BaseException:
                going.end()
                raise
            else:
                going.end(_load_of(response))
                return response, upstream.replica.replica_id

        async def send(upstream: Upstream) -> tuple[replica_pb2.DispatchResponse, ReplicaId]:
            response = await dispatch_at(upstream, request, budget, freed=slots, sent=going.sent)
            return response, upstream.replica.replica_id

        return await self._router.run_on(going, send)

    async def dispatch_at_holder(
        self, upstream: Upstream, request: replica_pb2.DispatchRequest, budget: Budget
    ) -> replica_pb2.DispatchResponse:
        """Calls a method on the one replica that has promised the token of ``request``, as ``unary`` does."""
        self.check_request(request)
        upstream.begin_use()
        try:
            if not upstream.connected:
                await upstream.ready(budget.connect_timeout_s)
            try:  # As dispatch_at does: a coroutine in a coroutine costs each call more.
                response = await _dispatched(upstream, request, budget)
            except grpc.aio.AioRpcError as error:
                _fail(upstream, error, freed=0)
            return _learned(upstream, response, freed=0)
        except _MAY_BE_UNTOUCHED:
            self._router.abandon(request.slot_token)
            raise
        finally:
            upstream.end_use()

    async def dispatch_part(
        self, part: Part, request: replica_pb2.DispatchRequest, budget: Budget, *, freed: int = 0
    ) -> replica_pb2.DispatchResponse:
        """Calls a method with the token of ``part``. Where the replica may not have looked at that, it is given back."""
        request.slot_token = part.token
        try:
            return await dispatch_at(part.upstream, request, budget, freed=freed)
        except _MAY_BE_UNTOUCHED:
            self._router.abandon(part.token)
            raise

    async def stream(
        self, key: DeploymentKey, request: replica_pb2.DispatchRequest, items: Items | None, budget: Budget
    ) -> AsyncGenerator[types_pb2.Payload, None]:
        """Calls a method that streams, on the token's replica if ``request`` has one; yields what it yields.

        Without a token it reserves first: a refusal cannot come after items were taken. To be closed by its caller.

        Args:
            key: The deployment.
            request: Opens the call.
            items: What goes to the method's stream parameter; None means that it has none.
            budget: Time limits.
        """
        self.check_request(request)
        if items is not None:
            items = self._checked(items)
        if request.slot_token:
            async with self._router.tokens.open(request.slot_token, key, timeout_s=budget.connect_timeout_s) as part:
                request.slot_token = part.token
                arrived = _Flag()
                try:
                    answering = self._stream_at(part.upstream, request, items, budget, freed=0, on_arrival=arrived.set)
                    async with aclosing(answering) as answers:
                        async for answer in answers:
                            yield answer
                finally:
                    if not arrived.is_set:
                        self._router.abandon(part.token)
            return
        slots = max(1, request.slots)
        # The request's id is no key to this reservation: calls made for one request may carry the same id at once.
        async with self._router.hold(key, slots=slots, deadline=budget.wait_until) as held:
            request.slot_token = held.token
            answering = self._stream_at(held.upstream, request, items, budget, freed=slots, on_arrival=held.spend)
            async with aclosing(answering) as answers:
                async for answer in answers:
                    yield answer

    def check_request(self, request: replica_pb2.DispatchRequest) -> None:
        """Does nothing when the arguments may pass; otherwise gives the token back, if there is one.

        Raises:
            MessageTooLargeError: They are larger than this router takes.
        """
        limit = self._router.max_message_bytes
        if request.ByteSize() <= limit:
            return
        try:
            check_size(request.arguments.data, limit, what="request")
        except MessageTooLargeError:
            if request.slot_token:
                self._router.abandon(request.slot_token)
            raise

    async def _checked(self, items: Items) -> Items:
        async for item in items:
            check_size(item.data, self._router.max_message_bytes, what="item")
            yield item

    async def _stream_at(
        self,
        upstream: Upstream,
        request: replica_pb2.DispatchRequest,
        items: Items | None,
        budget: Budget,
        *,
        freed: int,
        on_arrival: Callable[[], None],
    ) -> AsyncGenerator[types_pb2.Payload, None]:
        request.owner_id = upstream.owner_id
        call: _StreamCall = upstream.stub.DispatchStream(timeout=budget.timeout_s)
        sending = _Sending(call, items)
        pump = self._tasks.spawn(sending.run(request), name="send items")
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                assert isinstance(message, replica_pb2.DispatchStreamResponse)
                on_arrival()
                yield message.item
            on_arrival()
            _learn(upstream, await call.trailing_metadata(), freed=freed)
        except grpc.aio.AioRpcError as error:
            told = REPLICA_KEY in (error.trailing_metadata() or ())
            if told and not isinstance(upstream.translate(error), _TOKEN_UNTOUCHED):
                on_arrival()
            _fail(upstream, error, freed=freed)
        except asyncio.CancelledError:
            if sending.error is not None:
                raise sending.error from None
            raise
        finally:
            pump.cancel()
            call.cancel()


async def dispatch_at(
    upstream: Upstream,
    request: replica_pb2.DispatchRequest,
    budget: Budget,
    *,
    freed: int,
    sent: _DispatchCall | None = None,
) -> replica_pb2.DispatchResponse:
    """Calls a method on one replica.

    Args:
        upstream: The connection to it.
        request: The request.
        budget: Time limits.
        freed: Slots which are counted as ours that it holds no more at the end.
        sent: What the request was sent by, if it was.

    Raises:
        ServeError: What the failure means.
        grpc.aio.AioRpcError: It ended with a status that is none of ours.
    """
    try:
        response = await (_dispatched(upstream, request, budget) if sent is None else sent)
    except grpc.aio.AioRpcError as error:
        _fail(upstream, error, freed=freed)
    return _learned(upstream, response, freed=freed)


def _learned(upstream: Upstream, response: replica_pb2.DispatchResponse, *, freed: int) -> replica_pb2.DispatchResponse:
    load = _load_of(response)
    if load is not None:
        upstream.learn(load, freed=freed)
    return response


def _dispatched(upstream: Upstream, request: replica_pb2.DispatchRequest, budget: Budget) -> _DispatchCall:
    request.owner_id = upstream.owner_id
    return upstream.stub.Dispatch(request, timeout=budget.timeout_s)


def _load_of(response: replica_pb2.DispatchResponse) -> Load | None:
    return decode_load(response.load) if response.HasField("load") else None


class _Flag:
    """Whether the replica gave a sign of having the call."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """It did."""
        self.is_set = True


class _Sending:
    """Sends the opening and the items of a call. An error of the caller's iterator cancels the call."""

    def __init__(self, call: _StreamCall, items: Items | None) -> None:
        self._call = call
        self._items = items
        self.error: Exception | None = None

    async def run(self, request: replica_pb2.DispatchRequest) -> None:
        """Sends until everything is sent, or the call is over."""
        try:
            await self._call.write(replica_pb2.DispatchStreamRequest(open=request))
            if self._items is not None:
                async for item in self._items:
                    await self._call.write(replica_pb2.DispatchStreamRequest(item=item))
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # The call is over; reading its answers tells how.
        except Exception as error:  # noqa: BLE001 - the caller's own iterator
            self.error = error
            self._call.cancel()


def _learn(upstream: Upstream, trailers: grpc.aio.Metadata | None, *, freed: int) -> None:
    load = load_in(trailers)
    if load is not None:
        upstream.learn(load, freed=freed)


def _fail(upstream: Upstream, error: grpc.aio.AioRpcError, *, freed: int) -> NoReturn:
    _learn(upstream, error.trailing_metadata(), freed=freed)
    meant = upstream.translate(error)
    if meant is None:
        raise error
    raise meant from error
