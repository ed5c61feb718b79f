"""The router's own gRPC service: slots and calls by application and deployment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn, cast

import grpc
import grpc.aio

from router.broadcast import Broadcasts, MemberAnswer
from router.calls import Budget, Calls
from router.core.queue import patience_s
from router.forward import Router
from router.limits import too_large
from serve_core import __version__
from serve_core.errors import ServeError
from serve_core.model.gang import GangRoute
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.clock import monotonic
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import replica_pb2, router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import abort, encode_call_failure
from serve_core.wire.fields import invalid
from serve_core.wire.replica import encode_method, encode_replica, encode_user_service
from serve_core.wire.slots import decode_ttl, encode_lease

QUEUE_TIMEOUT_S = 60.0

_Context = grpc.aio.ServicerContext[Any, Any]


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Serves ``serve_core.v1.RouterService``.

    Args:
        router: Chooses replicas.
        tasks: Owns the tasks of streaming calls.
        queue_timeout_s: How long a call of a client that set no deadline may wait for a slot, in seconds.
    """

    def __init__(self, router: Router, tasks: Supervisor, *, queue_timeout_s: float = QUEUE_TIMEOUT_S) -> None:
        self._router = router
        self._calls = Calls(router, tasks)
        self._broadcasts = Broadcasts(router, self._calls)
        self._queue_timeout_s = queue_timeout_s

    async def GetRouter(  # noqa: N802 - the name in the contract
        self,
        request: router_pb2.GetRouterRequest,  # noqa: ARG002
        context: _Context,  # noqa: ARG002
    ) -> router_pb2.GetRouterResponse:
        """Who this router is and what it routes to."""
        waiting = {DeploymentKey(app, name): depth for app, name, depth in self._router.queue_depths()}
        gangs = {DeploymentKey(app, name): whole for app, name, whole, _ in self._router.gang_counts()}
        version = self._router.version
        return router_pb2.GetRouterResponse(
            router_id=self._router.router_id,
            table_epoch=version.epoch if version is not None else "",
            table_version=version.version if version is not None else 0,
            deployments=[
                router_pb2.RoutedDeployment(
                    application=route.key.application,
                    deployment=route.key.deployment,
                    ingress=route.ingress,
                    replicas=[encode_replica(replica) for replica in self._router.replicas(route.key)],
                    queued=waiting.get(route.key, 0),
                    methods=[encode_method(method) for method in route.methods],
                    services=[encode_user_service(service) for service in route.services],
                    leader_only=route.gang_route is GangRoute.LEADER,
                    gang_size=route.gang_size,
                    whole_gangs=gangs.get(route.key, 0),
                )
                for route in self._router.routes()
            ],
            version=__version__,
        )

    async def ReserveSlot(  # noqa: N802
        self, request: router_pb2.RouterServiceReserveSlotRequest, context: _Context
    ) -> router_pb2.RouterServiceReserveSlotResponse:
        """Waits until a replica has promised slots."""
        try:
            route = self._router.resolve(request.application, request.deployment)
            reservation = await self._router.reserve(
                route.key,
                slots=max(1, request.slots),
                ttl_s=decode_ttl(request),
                request_id=request.request_id,
                deadline=self._budget(context).wait_until,
            )
        except ServeError as error:
            await abort(context, error)
        return router_pb2.RouterServiceReserveSlotResponse(
            lease=encode_lease(reservation.lease), replica=encode_replica(reservation.replica)
        )

    async def ReleaseSlot(  # noqa: N802
        self, request: router_pb2.RouterServiceReleaseSlotRequest, context: _Context
    ) -> router_pb2.RouterServiceReleaseSlotResponse:
        """Gives a promise back."""
        try:
            released = await self._router.release(request.slot_token, timeout_s=context.time_remaining())
        except ServeError as error:
            await abort(context, error)
        return router_pb2.RouterServiceReleaseSlotResponse(released=released)

    async def RenewSlot(  # noqa: N802
        self, request: router_pb2.RouterServiceRenewSlotRequest, context: _Context
    ) -> router_pb2.RouterServiceRenewSlotResponse:
        """Prolongs a promise."""
        try:
            lease = await self._router.renew(
                request.slot_token,
                ttl_s=decode_ttl(request),
                detach=request.detach,
                timeout_s=context.time_remaining(),
            )
        except ServeError as error:
            await abort(context, error)
        return router_pb2.RouterServiceRenewSlotResponse(lease=encode_lease(lease))

    async def ReserveGang(  # noqa: N802
        self, request: router_pb2.ReserveGangRequest, context: _Context
    ) -> router_pb2.ReserveGangResponse:
        """Waits until every member of a gang has promised slots."""
        try:
            route = self._router.resolve(request.application, request.deployment)
            reservation = await self._router.gangs.reserve(
                route.key,
                slots=max(1, request.slots),
                ttl_s=decode_ttl(request),
                request_id=request.request_id,
                deadline=self._budget(context).wait_until,
            )
        except ServeError as error:
            await abort(context, error)
        return router_pb2.ReserveGangResponse(
            lease=encode_lease(reservation.lease),
            members=[encode_replica(replica) for replica in reservation.members],
        )

    async def Broadcast(  # noqa: N802
        self, request: router_pb2.BroadcastRequest, context: _Context
    ) -> router_pb2.BroadcastResponse:
        """Calls a method on every member of a gang."""
        try:
            route = self._router.resolve(request.application, request.deployment)
            answers = await self._broadcasts.call(route.key, _forwarded(request), self._budget(context))
            response = router_pb2.BroadcastResponse(results=[_result(answer) for answer in answers])
            if response.ByteSize() > self._router.max_message_bytes:
                limit = self._router.max_message_bytes
                raise too_large("response of all members together", limit, str(response.ByteSize()))
        except ServeError as error:
            await abort(context, error)
        return response

    async def Dispatch(  # noqa: N802
        self, request: router_pb2.RouterServiceDispatchRequest, context: _Context
    ) -> router_pb2.RouterServiceDispatchResponse:
        """Calls a method with one answer."""
        try:
            route = self._router.resolve(request.application, request.deployment)
            response, replica_id = await self._calls.unary(route.key, _forwarded(request), self._budget(context))
        except ServeError as error:
            await abort(context, error)
        except grpc.aio.AioRpcError as error:
            await _pass_on(context, error)
        return router_pb2.RouterServiceDispatchResponse(result=response.result, replica_id=replica_id)

    async def DispatchStream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[router_pb2.RouterServiceDispatchStreamRequest],
        context: _Context,
    ) -> AsyncGenerator[router_pb2.RouterServiceDispatchStreamResponse, None]:
        """Calls a method that streams."""
        try:
            request = await _opening(request_iterator)
            route = self._router.resolve(request.application, request.deployment)
            answers = self._calls.stream(
                route.key, _forwarded(request), _items(request_iterator), self._budget(context)
            )
            async with aclosing(answers):
                async for answer in answers:
                    yield router_pb2.RouterServiceDispatchStreamResponse(item=answer)
        except ServeError as error:
            await abort(context, error)
        except grpc.aio.AioRpcError as error:
            await _pass_on(context, error)

    def _budget(self, context: _Context) -> Budget:
        left_s = cast("float | None", context.time_remaining())  # the stubs forget that it may be None
        now = monotonic()
        if left_s is None:
            return Budget(wait_until=now + self._queue_timeout_s, end_at=None)
        return Budget(wait_until=now + patience_s(left_s), end_at=now + left_s)


def _result(answer: MemberAnswer) -> router_pb2.MemberResult:
    return router_pb2.MemberResult(
        replica_id=answer.replica.replica_id,
        rank=answer.replica.gang.rank,
        result=answer.result,
        failure=None if answer.error is None else encode_call_failure(answer.error),
    )


def _forwarded(
    request: router_pb2.RouterServiceDispatchRequest | router_pb2.BroadcastRequest,
) -> replica_pb2.DispatchRequest:
    return replica_pb2.DispatchRequest(
        method=request.method,
        arguments=request.arguments if request.HasField("arguments") else None,
        slot_token=request.slot_token,
        slots=request.slots,
        request_id=request.request_id,
    )


async def _opening(
    requests: AsyncIterator[router_pb2.RouterServiceDispatchStreamRequest],
) -> router_pb2.RouterServiceDispatchRequest:
    first = await anext(requests, None)
    if first is None or first.WhichOneof("message") != "open":
        raise invalid("open", "the first message of the stream has to be the opening")
    return first.open


async def _items(
    requests: AsyncIterator[router_pb2.RouterServiceDispatchStreamRequest],
) -> AsyncGenerator[types_pb2.Payload, None]:
    async for request in requests:
        if request.WhichOneof("message") != "item":
            raise invalid("item", "every message after the first has to be an item")
        yield request.item


async def _pass_on(context: _Context, error: grpc.aio.AioRpcError) -> NoReturn:
    """Ends the call with a status that is none of ours, as it is."""
    await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
