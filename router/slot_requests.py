"""ReserveSlot at the router, by callbacks where nothing has to be waited for but the replica's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.core.queue import patience_s
from router.forward import Router
from router.gate import Gate
from router.going import Going
from router.observe import ObservedCall, Observer
from router.reserving import ANSWER_TIMEOUT_S, ReserveCall
from router.service import QUEUE_TIMEOUT_S
from serve_core.errors import ServeError
from serve_core.link.call import LinkCall
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Replica
from serve_core.model.slots import Lease
from serve_core.runtime.clock import monotonic
from serve_core.runtime.direct import Reply
from serve_core.v1 import replica_pb2, router_pb2
from serve_core.wire.errors import abort
from serve_core.wire.replica import encode_replica
from serve_core.wire.slots import decode_ttl, fill_lease

ENCODED_MAX = 4096
"""Replicas whose description is kept encoded; the oldest are forgotten first."""


class SlotRequests:
    """Serves ReserveSlot as ``RouterService`` does, observed.

    Args:
        router: Chooses replicas.
        path: The method's full name.
        gate: Refuses new calls while the router drains.
        observer: Counts calls, and what becomes of reservations.
    """

    def __init__(self, router: Router, *, path: str, gate: Gate, observer: Observer) -> None:
        self._router = router
        self._path = path
        self._gate = gate
        self._observer = observer
        self._encode = _Encoder()

    def begin(self, request: router_pb2.RouterServiceReserveSlotRequest, reply: Reply) -> bool:
        """Serves a request that any free replica may promise at once. False for others: then nothing was done."""
        remaining_s = reply.call.time_remaining()
        left_s = QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s)
        if not self._gate.takes or request.request_id or left_s <= ANSWER_TIMEOUT_S:
            return False
        slots = max(1, request.slots)
        try:
            route = self._router.resolve(request.application, request.deployment)
            ttl_s = decode_ttl(request)
            going = self._router.begin(route.key, slots=slots, deadline=monotonic() + left_s)
        except ServeError:  # To be told by who knows how.
            return False
        observed = self._observer.call(self._path)
        observed.begin()
        self._gate.enter()
        leave = _Leaving(self._gate, self._observer, observed)
        asked = _Asked(self._router, going, reply, self._encode, leave, slots=slots, ttl_s=ttl_s)
        asked.begin()
        return True


class _Encoder:
    """Makes the answers. What is the same in all of a replica's is encoded once."""

    def __init__(self) -> None:
        self._known: dict[ReplicaId, tuple[Replica, bytes]] = {}

    def __call__(self, lease: Lease, replica: Replica) -> router_pb2.RouterServiceReserveSlotResponse:
        known = self._known.get(replica.replica_id)
        if known is None or known[0] is not replica:
            known = self._learn(replica)
        response = router_pb2.RouterServiceReserveSlotResponse.FromString(known[1])
        fill_lease(response.lease, lease, expire_time=lease.expires_at)
        return response

    def _learn(self, replica: Replica) -> tuple[Replica, bytes]:
        encoded = router_pb2.RouterServiceReserveSlotResponse(replica=encode_replica(replica)).SerializeToString()
        known = self._known[replica.replica_id] = (replica, encoded)
        if len(self._known) > ENCODED_MAX:
            del self._known[next(iter(self._known))]
        return known


class _Leaving:
    """What is to be told when a request is over."""

    __slots__ = ("_gate", "_observed", "_observer")

    def __init__(self, gate: Gate, observer: Observer, observed: ObservedCall) -> None:
        self._gate = gate
        self._observer = observer
        self._observed = observed

    def __call__(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._observed.failed(error)
        self._gate.leave()
        self._observed.end()
        self._observer.reserved(self._observed.outcome)


class _Asked:
    """One request, from when it was let in."""

    __slots__ = ("_encode", "_going", "_leave", "_reply", "_router", "_sent", "_slots", "_ttl_s")

    def __init__(
        self,
        router: Router,
        going: Going,
        reply: Reply,
        encode: Callable[[Lease, Replica], router_pb2.RouterServiceReserveSlotResponse],
        leave: Callable[[BaseException | None], None],
        *,
        slots: int,
        ttl_s: float | None,
    ) -> None:
        self._router = router
        self._going = going
        self._reply = reply
        self._encode = encode
        self._leave = leave
        self._slots = slots
        self._ttl_s = ttl_s
        self._sent: LinkCall | None = None

    def begin(self) -> None:
        """Asks the replica that was chosen, or waits for one."""
        upstream = self._going.upstream
        if upstream is None:
            self._reply.go_on(self._go_on(None))
            return
        try:
            sent = self._router.reserving.ask(upstream, slots=self._slots, ttl_s=self._ttl_s, request_id="")
        except Exception as error:
            self._going.end()
            self._leave(error)
            raise
        if not isinstance(sent, LinkCall):
            self._reply.go_on(self._go_on(sent))
            return
        self._sent = sent
        self._reply.wait(self._gone)
        sent.add_done_callback(self._answered)

    def _answered(self, sent: LinkCall) -> None:
        """The replica has answered. Unless it has promised, this goes on as a coroutine, which knows what that means."""
        if self._sent is None:
            return
        self._sent = None
        try:
            response = None if sent.answer is None else replica_pb2.ReserveSlotResponse.FromString(sent.answer)
            if response is None or not response.accepted:
                self._reply.go_on(self._go_on(sent))
                return
            upstream = self._going.upstream
            assert upstream is not None
            try:
                lease = self._router.reserving.promised(upstream, self._slots, response)
            finally:
                self._going.end()
            self._leave(None)
            self._reply.answer(self._encode(lease, upstream.replica))
        except Exception as error:  # noqa: BLE001 - the link must not suffer
            self._reply.fail(error)

    def _gone(self) -> None:
        sent, self._sent = self._sent, None
        if sent is None:
            return
        upstream = self._going.upstream
        assert upstream is not None
        upstream.begin_use()
        self._router.reserving.give_up(upstream, sent)
        self._going.end()
        self._leave(asyncio.CancelledError())

    async def _go_on(self, sent: ReserveCall | None) -> router_pb2.RouterServiceReserveSlotResponse:
        self._going.sent = sent
        send = self._router.reserving.sender(
            slots=self._slots, ttl_s=self._ttl_s, request_id="", deadline=self._going.waiter.deadline, sent=sent
        )
        try:
            reservation = await self._router.reserve_on(self._going, send)
        except ServeError as error:
            self._leave(error)
            await abort(self._reply.call, error)
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)
        return self._encode(reservation.lease, reservation.replica)
