"""ReserveSlot at the router, by callbacks where nothing has to be waited for but the replica's answer."""

from __future__ import annotations

from router.core.queue import patience_s
from router.forward import Router
from router.gate import Gate
from router.going import Going
from router.observe import Observer
from router.reserving import ANSWER_TIMEOUT_S, ReserveCall, lease_of
from router.sent import SentCall
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
from serve_core.wire.replica import decode_load, encode_replica
from serve_core.wire.slots import decode_ttl, fill_lease

ENCODED_MAX = 4096
"""Replicas whose description is kept encoded; the oldest are forgotten first."""


class SlotRequests:
    """Serves ReserveSlot as ``RouterService`` does, observed.

    Attributes:
        router: Chooses replicas.
        path: The method's full name.
        gate: Refuses new calls while the router drains.
        observer: Counts calls, and what becomes of reservations.
        encode: Makes the answers.
    """

    def __init__(self, router: Router, *, path: str, gate: Gate, observer: Observer) -> None:
        self.router = router
        self.path = path
        self.gate = gate
        self.observer = observer
        self.encode = _Encoder()

    def begin(self, request: router_pb2.RouterServiceReserveSlotRequest, reply: Reply) -> bool:
        """Serves a request that any free replica may promise at once. False for others: then nothing was done."""
        remaining_s = reply.call.time_remaining()
        left_s = QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s)
        if not self.gate.takes or request.request_id or left_s <= ANSWER_TIMEOUT_S:
            return False
        slots = max(1, request.slots)
        try:
            route = self.router.resolve(request.application, request.deployment)
            ttl_s = decode_ttl(request)
            going = self.router.begin(route.key, slots=slots, deadline=monotonic() + left_s)
        except ServeError:  # To be told by who knows how.
            return False
        asked = _Asked(self, going, reply, slots=slots, ttl_s=ttl_s)
        asked.enter()
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


class _Asked(SentCall):
    """One request, from when it was let in."""

    __slots__ = ("_desk", "_going", "_reply", "_slots", "_ttl_s")

    def __init__(self, desk: SlotRequests, going: Going, reply: Reply, *, slots: int, ttl_s: float | None) -> None:
        super().__init__(desk.gate, desk.observer.call(desk.path))
        self._desk = desk
        self._going = going
        self._reply = reply
        self._slots = slots
        self._ttl_s = ttl_s

    def begin(self) -> None:
        """Asks the replica that was chosen, or waits for one."""
        upstream = self._going.upstream
        if upstream is None:
            self._reply.go_on(self._go_on(None))
            return
        try:
            sent = self._desk.router.reserving.ask(upstream, slots=self._slots, ttl_s=self._ttl_s, request_id="")
        except Exception as error:
            self._going.end()
            self.leave(error)
            raise
        if isinstance(sent, LinkCall):
            self.wait_for(sent, self._reply)
        else:
            self._reply.go_on(self._go_on(sent))

    def leave(self, error: BaseException | None = None) -> None:
        """As in ``SentCall``; what became of the reservation is counted, too."""
        super().leave(error)
        self._desk.observer.reserved(self._observed.outcome)

    def answered(self, sent: LinkCall) -> None:
        """As in ``SentCall``."""
        response = None if sent.answer is None else replica_pb2.ReserveSlotResponse.FromString(sent.answer)
        upstream = self._going.upstream
        if response is None or not response.accepted or upstream is None:
            self._reply.go_on(self._go_on(sent))
            return
        load = None
        try:
            load = decode_load(response.load)
            lease = lease_of(upstream, response.lease)
        finally:
            self._going.end(load)
        self.leave()
        self._reply.answer(self._desk.encode(lease, upstream.replica))

    def given_up(self, sent: LinkCall) -> None:
        """As in ``SentCall``. What the replica may still promise is given back."""
        upstream = self._going.upstream
        assert upstream is not None
        upstream.begin_use()
        self._desk.router.reserving.give_up(upstream, sent)
        self._going.end()

    async def _go_on(self, sent: ReserveCall | None) -> router_pb2.RouterServiceReserveSlotResponse:
        self._going.sent = sent
        router = self._desk.router
        send = router.reserving.sender(
            slots=self._slots, ttl_s=self._ttl_s, request_id="", deadline=self._going.waiter.deadline, sent=sent
        )
        try:
            reservation = await router.reserve_on(self._going, send)
        except ServeError as error:
            self.leave(error)
            await abort(self._reply.call, error)
        except BaseException as error:
            self.leave(error)
            raise
        self.leave()
        return self._desk.encode(reservation.lease, reservation.replica)
