"""Where a call that passes through goes: to its token's replica, or to one of the router's choice.

Calls with one request go without a reservation: one round trip, and a refusal is tried elsewhere. Calls with a stream
of requests reserve first: a refusal after messages were consumed could not be tried elsewhere. Calls that bring a
token go to the token's replica, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import grpc
import grpc.aio

from router.forward import Router
from router.going import Consuming, Going
from router.limits import check_size
from router.observe import Observer
from router.relay import MetadataPair, Relay, from_replica
from router.tokens import Part
from router.upstream import Upstream
from serve_core.errors import DrainingError, NoSlotError, ReplicaUnavailableError, ServeError
from serve_core.link.call import LinkCall
from serve_core.model.ids import DeploymentKey
from serve_core.runtime.clock import monotonic
from serve_core.wire.metadata import OWNER_KEY, SLOT_KEY, SLOTS_KEY, load_in

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
RESERVATIONS_MAX = 3
"""Replicas that a stream of requests is reserved on before their loss is the caller's to know."""


class Incoming:
    """One call as it came in, with what its metadata asked of the router. Who passes it on has these attributes itself.

    ``deadline`` is when its caller gives up, and ``wait_until`` until when it may wait for a slot: monotonic seconds.
    """

    __slots__ = ()

    path: str
    key: DeploymentKey
    metadata: Sequence[MetadataPair]
    slot_token: str
    slots: int
    compression: grpc.Compression | None
    deadline: float | None
    wait_until: float
    max_message_bytes: int

    @property
    def timeout_s(self) -> float | None:
        """Seconds that are left of the caller's deadline; None if it has none."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def metadata_for(self, upstream: Upstream, slot_token: str) -> tuple[MetadataPair, ...]:
        """The metadata that goes on to a replica."""
        owner = (OWNER_KEY, upstream.owner_id)
        if slot_token:
            return (*self.metadata, owner, (SLOT_KEY, slot_token))
        if self.slots == 1:
            return (*self.metadata, owner)
        return (*self.metadata, owner, (SLOTS_KEY, str(self.slots)))


class Passthrough:
    """Sends calls to replicas.

    Args:
        router: Chooses replicas.
        observer: Counts reservations.
    """

    def __init__(self, router: Router, observer: Observer) -> None:
        self._router = router
        self._observer = observer

    def begin(self, incoming: Incoming) -> Going | Consuming | None:
        """Begins a call: with an upstream if none has to be waited for. To be ended. None if it is to be begun by ``unary``.

        Raises:
            ServeError: The router's answer.
        """
        if incoming.slot_token:
            return self._router.tokens.begin(incoming.slot_token, incoming.key)
        return self._router.begin(incoming.key, slots=incoming.slots, deadline=incoming.wait_until)

    def send(self, incoming: Incoming, going: Going | Consuming, request: bytes) -> LinkCall | None:
        """Sends a unary call in the link to its upstream; None if it has none yet, or that has no link."""
        upstream = going.upstream
        if upstream is None:
            return None
        metadata = incoming.metadata_for(upstream, going.token)
        return upstream.send_linked(incoming.path, request, incoming.timeout_s, metadata)

    async def unary(
        self,
        incoming: Incoming,
        relay: Relay,
        request: bytes,
        *,
        begun: tuple[Going | Consuming, LinkCall | None] | None = None,
    ) -> bytes:
        """One request, one answer.

        Args:
            incoming: The call.
            relay: Carries it.
            request: Its request.
            begun: What ``begin`` and ``send`` gave, if this goes on with that.

        Raises:
            ServeError: The router's answer.
            grpc.aio.AioRpcError: The replica's answer, to be passed on as it is.
        """
        going, sent = begun or (None, None)

        async def send(upstream: Upstream, slot_token: str = "") -> bytes:
            nonlocal sent
            already, sent = sent, None
            call: Any = already or upstream.unary(incoming.path)(
                request,
                timeout=incoming.timeout_s,
                metadata=incoming.metadata_for(upstream, slot_token),
                compression=incoming.compression,
            )
            return await self._settle(upstream, incoming, relay, call, relay.unary(call))

        if isinstance(going, Going):
            going.sent = sent
            return await self._router.run_on(going, send)
        if going is not None and going.upstream is not None:
            try:
                return await send(going.upstream, going.token)
            finally:
                going.end()
        check_size(request, incoming.max_message_bytes, what="request")
        if incoming.slot_token:
            async with self._open(incoming) as part:
                return await send(*part)
        return await self._router.run(incoming.key, send, slots=incoming.slots, deadline=incoming.wait_until)

    async def server_stream(self, incoming: Incoming, relay: Relay, request: bytes) -> None:
        """One request, a stream of answers. Raises as ``unary`` does."""
        check_size(request, incoming.max_message_bytes, what="request")

        async def send(upstream: Upstream, slot_token: str = "") -> None:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = upstream.channel.unary_stream(incoming.path)
            call = method(
                request,
                timeout=incoming.timeout_s,
                metadata=incoming.metadata_for(upstream, slot_token),
                compression=incoming.compression,
            )
            await self._settle(upstream, incoming, relay, call, relay.responses(call))

        if incoming.slot_token:
            async with self._open(incoming) as part:
                await send(*part)
        else:
            await self._router.run(incoming.key, send, slots=incoming.slots, deadline=incoming.wait_until)

    async def stream(self, incoming: Incoming, relay: Relay, requests: AsyncIterator[bytes]) -> None:
        """A stream of requests, and one answer or a stream of them. Raises as ``unary`` does."""
        if incoming.slot_token:
            async with self._open(incoming) as part:
                await self._send_stream(*part, incoming, relay, requests)
            return
        for _ in range(RESERVATIONS_MAX - 1):
            if await self._reserve_and_send(incoming, relay, requests):
                return
        if not await self._reserve_and_send(incoming, relay, requests):
            raise ReplicaUnavailableError(
                f"{RESERVATIONS_MAX} replicas of {incoming.key} in turn promised a slot and were gone: nothing was run",
                details={"application": incoming.key.application, "deployment": incoming.key.deployment},
            )

    def _open(self, incoming: Incoming) -> AbstractAsyncContextManager[Part]:
        return self._router.tokens.open(incoming.slot_token, incoming.key, timeout_s=_connect_timeout_s(incoming))

    async def _reserve_and_send(self, incoming: Incoming, relay: Relay, requests: AsyncIterator[bytes]) -> bool:
        """Says whether the call was delivered: if not, no message was taken from the caller."""
        observed = False
        try:
            async with self._router.hold(incoming.key, slots=incoming.slots, deadline=incoming.wait_until) as held:
                observed = True
                self._observer.reserved("granted")
                try:
                    await held.upstream.ready(_connect_timeout_s(incoming))
                except ReplicaUnavailableError:
                    return False
                held.spend()
                try:
                    await self._send_stream(held.upstream, held.token, incoming, relay, requests)
                except asyncio.CancelledError:
                    # It may never have arrived; if it did, releasing the token does nothing.
                    self._router.abandon(held.token)
                    raise
                return True
        except ServeError as error:
            if not observed:
                self._observer.reserved(error.reason.value.lower())
            raise

    async def _send_stream(
        self, upstream: Upstream, slot_token: str, incoming: Incoming, relay: Relay, requests: AsyncIterator[bytes]
    ) -> None:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = upstream.channel.stream_stream(incoming.path)
        call = method(
            timeout=incoming.timeout_s,
            metadata=incoming.metadata_for(upstream, slot_token),
            compression=incoming.compression,
        )
        await self._settle(upstream, incoming, relay, call, relay.both(requests, call))

    async def _settle(
        self,
        upstream: Upstream,
        incoming: Incoming,
        relay: Relay,
        call: grpc.aio.Call,
        relaying: Awaitable[T],
    ) -> T:
        """Waits for a call's end, tells the router what it told of the replica's load, and judges its failure."""
        try:
            result = await relaying
        except grpc.aio.AioRpcError as error:
            self._learn(upstream, incoming, error.trailing_metadata())
            raise _verdict(upstream, incoming, relay, error) from error
        finally:
            call.cancel()
        self._learn(upstream, incoming, relay.trailers)
        return result

    @staticmethod
    def _learn(upstream: Upstream, incoming: Incoming, trailers: Iterable[MetadataPair] | None) -> None:
        load = load_in(trailers)
        if load is not None:
            upstream.learn(load, freed=0 if incoming.slot_token else incoming.slots)


def _connect_timeout_s(incoming: Incoming) -> float:
    timeout_s = incoming.timeout_s
    return CONNECT_TIMEOUT_S if timeout_s is None else min(timeout_s, CONNECT_TIMEOUT_S)


def _verdict(upstream: Upstream, incoming: Incoming, relay: Relay, error: grpc.aio.AioRpcError) -> Exception:
    """What a failed call is: the replica's own status as it is, a refusal to be tried elsewhere, or a loss."""
    meant = upstream.translate(error)
    if not from_replica(error):
        return meant or error
    refused = isinstance(meant, NoSlotError | DrainingError) and not relay.answered and not incoming.slot_token
    return meant if refused and meant is not None else error
