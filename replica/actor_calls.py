"""Calls to the deployment's actors, for the user code of this replica. They follow an actor from life to life.

What was not run is sent again, to whichever life serves then, until the caller's time is over. What may have run is not,
unless the caller says that it may run twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

import grpc.aio

from replica.actor_channel import ActorChannel
from replica.actors import Actors
from replica.errand import ActorConnections
from serve_core.actor_handle import ActorTerms, DirectEndpoint
from serve_core.errors import ReplicaDiedError
from serve_core.model.payload import Payload
from serve_core.v1 import replica_pb2
from serve_core.wire.payload import decode_payload, fill_payload


class ActorCalls:
    """Calls actors. What of that user code sees is ``serve_core.actor_handle``.

    Args:
        max_message_bytes: The largest message that is taken.
        unit_random: Gives random numbers from 0 to 1, for jitter.
    """

    def __init__(self, *, max_message_bytes: int, unit_random: Callable[[], float]) -> None:
        self.actors = Actors()
        """Where they are."""
        self._connections = ActorConnections(self.actors, max_message_bytes=max_message_bytes, unit_random=unit_random)

    def require(self, name: str) -> None:
        """Raises ActorUnknownError unless the deployment has an actor of this name."""
        self.actors.require(name)

    def incarnation(self, name: str) -> int:
        """Which life of an actor is known, or awaited; 0 before anything was heard of it."""
        endpoint = self.actors.find(name)
        return 0 if endpoint is None else endpoint.incarnation

    async def call(self, name: str, method: str, arguments: Payload, *, terms: ActorTerms) -> Payload:
        """Calls a method with one answer."""
        request = replica_pb2.DispatchRequest(method=method, request_id=terms.request_id)
        fill_payload(request.arguments, arguments)
        errand = self._connections.errand(name, _called(method), terms=terms)
        while True:
            async with errand.connected() as life:
                call = life.stub.Dispatch(request, timeout=errand.left_s, metadata=life.metadata(terms))
                try:
                    with life.carrying(call):
                        return decode_payload((await call).result)
                except (grpc.aio.AioRpcError, ReplicaDiedError) as error:
                    await errand.failed(life, errand.told(error, life), cause=error)

    async def stream(
        self, name: str, method: str, arguments: Payload, items: AsyncIterable[Payload] | None, *, terms: ActorTerms
    ) -> AsyncGenerator[Payload, None]:
        """Calls a method that streams. It is made again as long as nothing came of it, unless it takes a stream."""
        errand = self._connections.errand(name, _called(method), terms=terms)
        opening = replica_pb2.DispatchRequest(method=method, request_id=terms.request_id)
        fill_payload(opening.arguments, arguments)
        # Whatever was taken from the items, and sent or not, cannot be had again.
        final = items is not None
        while True:
            async with errand.connected() as life:
                requests = _requests(opening, items)
                call = life.stub.DispatchStream(requests, timeout=errand.left_s, metadata=life.metadata(terms))
                try:
                    with life.carrying(call):
                        async for response in call:
                            final = True
                            yield decode_payload(response.item)
                    return
                except (grpc.aio.AioRpcError, ReplicaDiedError) as error:
                    await errand.failed(life, errand.told(error, life), cause=error, final=final)
                finally:
                    call.cancel()

    def channel(self, name: str, terms: Callable[[], ActorTerms]) -> ActorChannel:
        """A channel for generated stubs."""
        return ActorChannel(self._connections, name, terms)

    async def endpoint(self, name: str, *, terms: ActorTerms) -> DirectEndpoint:
        """Where the life that serves is called directly, once it can be connected to."""
        async with self._connections.errand(name, "its endpoint", terms=terms).connected() as life:
            return life.direct

    async def close(self) -> None:
        """Ends every connection, with whatever is still on it."""
        await self._connections.close()


def _called(method: str) -> str:
    return f"{method or '__call__'}()"


async def _requests(
    opening: replica_pb2.DispatchRequest, items: AsyncIterable[Payload] | None
) -> AsyncIterator[replica_pb2.DispatchStreamRequest]:
    yield replica_pb2.DispatchStreamRequest(open=opening)
    if items is not None:
        async for item in items:
            request = replica_pb2.DispatchStreamRequest()
            fill_payload(request.item, item)
            yield request
