"""One replica as this router reaches it: a channel, and the watch of its load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio

from router.linking import Linking
from serve_core.errors import ReplicaUnavailableError, ServeError
from serve_core.link.call import LinkCall
from serve_core.link.channel import LinkChannel
from serve_core.model.backoff import Backoff
from serve_core.model.ids import OwnerId
from serve_core.model.load import Load
from serve_core.model.replica import Replica, ReplicaPhase
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.runtime.clock import monotonic
from serve_core.runtime.served_context import Metadata
from serve_core.runtime.spare import SpareChannel
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from serve_core.wire.lost import TRANSPORT_CODES, replica_error
from serve_core.wire.replica import decode_load

RESUBSCRIBE = Backoff(initial_s=0.05, factor=2.0, max_s=1.0, jitter=0.5)

ALONE = 2
"""Uses of a replica at once (a reservation is two) up to which a call does not take a link that gRPC carries: it is quicker so."""


class Observer(Protocol):
    """Who is told what becomes known of a replica."""

    def told(self, load: Load, *, freed: int) -> None:
        """A reply told its load, which no longer holds ``freed`` of the slots that are counted as ours."""

    def pushed(self, load: Load, *, draining: bool) -> None:
        """It told its load by itself."""

    def lost(self, *, reachable: bool) -> None:
        """The watch of its load ended; ``reachable`` unless its connection did too."""


class Upstream:
    """One replica's channel, stub and load watch.

    Args:
        replica: Who it is.
        new_owner: Names each watch; no two of a router are called the same.
        max_message_bytes: The largest message that passes.
        observer: Who is told of its load.
        unit_random: Random numbers from 0 to 1, for the jitter of backoffs.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        new_owner: Callable[[], OwnerId],
        max_message_bytes: int,
        observer: Observer,
        unit_random: Callable[[], float],
    ) -> None:
        self.replica = replica
        self._plain = SpareChannel(partial(open_channel, replica.address, max_message_bytes=max_message_bytes))
        self._plain_way = _Way(self._plain)
        self._linking = Linking(replica.replica_id, self._plain, max_message_bytes=max_message_bytes)
        self._link: LinkChannel | None = None
        self._link_way = self._plain_way
        self._relinked = asyncio.Event()
        self._attempt = 0
        self.promises_void = asyncio.Event()
        """Set while none of its promises can be live: its connection is lost or closed, or it drains and holds nothing."""
        self.owner_id = new_owner()
        """Names the current watch: the tokens that are reserved under it end with it.

        Each subscription has its own, so that the late end of a broken one frees nothing of its successor.
        """
        self.leased_until = 0.0
        """Monotonic seconds until which a token that was reserved through here may live."""
        self._new_owner = new_owner
        self._observer = observer
        self._unit_random = unit_random
        self._watch_call: grpc.aio.Call | None = None
        self._closed = False
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def ongoing(self) -> int:
        """The calls that use the channel now."""
        return self._users

    @property
    def connected(self) -> bool:
        """Whether a call can be sent now."""
        return self._reachable if self._link is None else self._link.end.open

    @property
    def channel(self) -> grpc.aio.Channel:
        """What the user's methods are called through: the link, or without one the channel."""
        return self._way.channel

    @property
    def stub(self) -> replica_pb2_grpc.ReplicaServiceAsyncStub:
        """What ReplicaService is called through, as ``channel``."""
        return self._way.stub

    @property
    def _way(self) -> _Way:
        link = self._link
        if link is None or (link.in_a_call and link.open and self._users <= ALONE and self._reachable):
            return self._plain_way
        # What is sent on a link that was lost is certain not to have been delivered. The channel may not know yet.
        return self._link_way

    @property
    def _reachable(self) -> bool:
        return not self._closed and self._plain.get_state() is grpc.ChannelConnectivity.READY

    async def ready(self, timeout_s: float) -> None:
        """Waits until the channel is connected.

        Raises:
            ReplicaUnavailableError: It is not within ``timeout_s``, or the first try to connect failed.
        """
        if self._closed:
            raise self.unavailable("it has left this router's table")
        until = monotonic() + timeout_s
        if self.connected and self._link is not None:
            return
        if not await wait_ready(self._plain, timeout_s, fail_fast=True):
            raise self.unavailable(f"its address {self.replica.address} does not answer")
        try:
            async with asyncio.timeout(until - monotonic()):
                while not self.connected:  # The link that was lost is being opened anew.
                    self._relinked.clear()
                    await self._relinked.wait()
        except TimeoutError:
            raise self.unavailable("the link to it was lost") from None

    def translate(self, error: grpc.aio.AioRpcError) -> ServeError | None:
        """What a failed call on a READY channel means, or None where the status is the user's own."""
        return replica_error(error, self.replica.replica_id)

    def learn(self, load: Load, *, freed: int = 0) -> None:
        """Takes the load that a reply told.

        Args:
            load: The replica's load after the call.
            freed: Slots which that load no longer holds, but which ``Router.run`` still counts as ours: the weight of
                the call when it is a token-less one inside ``run``, else 0.
        """
        self._observer.told(load, freed=freed)

    def unavailable(self, why: str) -> ReplicaUnavailableError:
        """The error for a request that did not reach this replica."""
        return ReplicaUnavailableError(
            f"replica {self.replica.replica_id} is not available: {why}; nothing was run, reserve again",
            details={"replicaId": self.replica.replica_id, "address": self.replica.address},
        )

    def leased(self, ttl_s: float) -> None:
        """A token that lives so long was reserved through here."""
        until = monotonic() + ttl_s
        if until > self.leased_until:
            self.leased_until = until

    def use(self) -> AbstractContextManager[None]:
        """Keeps the channel open for as long as the block lasts, also when the replica leaves the table."""
        return _Use(self)

    def begin_use(self) -> None:
        """Keeps the channel open until as many uses have ended."""
        if self._users == 0:
            self._idle.clear()
        self._users += 1

    def try_use(self) -> bool:
        """Begins a use if a call can be sent now; says whether it has."""
        link = self._link
        if not (self._reachable if link is None else link.end.open):
            return False
        if self._users == 0:
            self._idle.clear()
        self._users += 1
        return True

    def end_use(self) -> None:
        """One use of the channel is over."""
        self._users -= 1
        if self._users == 0:
            self._idle.set()

    def unary(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """A method of the user's with one request and one answer, as bytes."""
        return self._way.unary(path)

    def send_linked(self, path: str, request: bytes, timeout_s: float | None, metadata: Metadata) -> LinkCall | None:
        """Calls such a method, if it is called through the link; else None."""
        link = self._link
        if link is None or (link.in_a_call and self._way is self._plain_way):
            return None
        return link.opened(path, request, None, None, timeout_s, metadata)

    async def idle(self) -> None:
        """Waits until nobody uses the channel."""
        await self._idle.wait()

    async def watch(self) -> None:
        """Watches the load for ever: resubscribes with backoff when the stream breaks.

        Before that it opens the link, if there can be one. What is in that goes on when only the watch ends.
        """
        while True:
            async with self._linking.opened() as link:
                self._link = link
                way = self._link_way = self._plain_way if link is None else _Way(link)
                self._relinked.set()
                await self._watch_once(way.stub)
                while link is not None and link.open:
                    await self._watch_once(way.stub)

    def restart_watch(self) -> None:
        """Ends the current watch, so that the replica is in rotation again only once it answers a new one."""
        if self._watch_call is not None:
            self._watch_call.cancel()

    async def close(self) -> None:
        """Closes the channel, with whatever is still on it."""
        self._closed = True
        self.promises_void.set()
        if self._link is not None:
            self._link.close()
        await self._plain.close()

    def _on_push(self, load: Load, *, draining: bool) -> None:
        if draining and not load.held:
            self.promises_void.set()
        else:
            self.promises_void.clear()
        self._observer.pushed(load, draining=draining)

    async def _watch_once(self, stub: replica_pb2_grpc.ReplicaServiceAsyncStub) -> None:
        """Watches until the stream ends, and then for as long as it is to be left alone."""
        if await self._watch_through(stub):
            self._attempt = 0
        await asyncio.sleep(RESUBSCRIBE.delay_s(self._attempt, self._unit_random()))
        self._attempt += 1

    async def _watch_through(self, stub: replica_pb2_grpc.ReplicaServiceAsyncStub) -> bool:
        """Watches until the stream ends; says whether it had begun."""
        began = False
        self.owner_id = self._new_owner()
        # The channel itself tries to connect again and again, so the call may wait for it.
        call = stub.WatchLoad(replica_pb2.WatchLoadRequest(owner_id=self.owner_id), wait_for_ready=True)
        self._watch_call = call
        reachable = True
        try:
            async for message in call:
                began = True
                self._on_push(decode_load(message.load), draining=_is_draining(message))
        except grpc.aio.AioRpcError as error:
            reachable = error.code() not in TRANSPORT_CODES
        except asyncio.CancelledError:
            if not _restarted(call):
                raise
            reachable = False
        finally:
            self._watch_call = None
            call.cancel()
        if not reachable:
            self.promises_void.set()
        self._observer.lost(reachable=reachable)
        return began


class _Way:
    """A channel to the replica, with what is made of it once."""

    def __init__(self, channel: Any) -> None:
        self.channel: grpc.aio.Channel = channel
        self.stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def unary(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """A method of the user's with one request and one answer, as bytes."""
        method = self._unary.get(path)
        if method is None:
            method = self._unary[path] = self.channel.unary_unary(path)
        return method


class _Use(AbstractContextManager[None]):
    """A use of a channel. A class, because every call has one and generators cost it more."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def __enter__(self) -> None:
        self._upstream.begin_use()

    def __exit__(self, *raised: object) -> None:
        self._upstream.end_use()


def _restarted(call: grpc.aio.Call) -> bool:
    """Whether it was the call that was cancelled, by ``restart_watch``, and not the task that reads it."""
    task = asyncio.current_task()
    return call.cancelled() and (task is None or not task.cancelling())


def _is_draining(message: replica_pb2.WatchLoadResponse) -> bool:
    return message.phase != ReplicaPhase.READY.value
