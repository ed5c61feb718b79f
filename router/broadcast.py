"""One method called on every member of a gang at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from router.calls import Budget, Calls
from router.forward import Router
from router.tokens import Part
from serve_core.errors import ServeError
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Replica
from serve_core.v1 import replica_pb2, types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAnswer:
    """What one member answered: ``result``, or ``error`` where there is none."""

    replica: Replica
    result: types_pb2.Payload | None = None
    error: ServeError | grpc.aio.AioRpcError | None = None


class Broadcasts:
    """Sends broadcasts through a router.

    Args:
        router: Reserves gangs, and knows who a gang's token is good for.
        calls: Sends the calls.
    """

    def __init__(self, router: Router, calls: Calls) -> None:
        self._router = router
        self._calls = calls

    async def call(
        self, key: DeploymentKey, request: replica_pb2.DispatchRequest, budget: Budget
    ) -> list[MemberAnswer]:
        """Calls a method on every member, and waits for all of them. Returns what each answered, by rank.

        Nobody is called unless every member has promised a slot: by the gang's token in ``request``, else by being asked
        first. From then on a failure is its member's own. Cancelled, it cancels every call.

        Raises:
            ServeError: Nobody was called: as ``Router.run`` does, or as ``Tokens`` does for a token.
        """
        self._calls.check_request(request)
        if request.slot_token:
            parts = self._router.tokens.locate_whole(request.slot_token, key)
            await self._router.tokens.check(parts, timeout_s=budget.connect_timeout_s)
            return await self._call_all(parts, request, budget, freed=0)
        slots = max(1, request.slots)
        # The request's id is no key to this reservation: calls made for one request may carry the same id at once.
        async with self._router.gangs.hold(key, slots=slots, deadline=budget.wait_until) as held:
            held.spend()
            return await self._call_all(held.parts, request, budget, freed=slots)

    async def _call_all(
        self, parts: Sequence[Part], request: replica_pb2.DispatchRequest, budget: Budget, *, freed: int
    ) -> list[MemberAnswer]:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(self._call_one(part, request, budget, freed=freed)) for part in parts]
        return [call.result() for call in calls]

    async def _call_one(
        self, part: Part, request: replica_pb2.DispatchRequest, budget: Budget, *, freed: int
    ) -> MemberAnswer:
        own = replica_pb2.DispatchRequest()
        own.CopyFrom(request)
        replica = part.upstream.replica
        with part.upstream.use():
            try:
                response = await self._calls.dispatch_part(part, own, budget, freed=freed)
            except (ServeError, grpc.aio.AioRpcError) as error:
                return MemberAnswer(replica=replica, error=error)
        return MemberAnswer(replica=replica, result=response.result)
