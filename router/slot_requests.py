"""ReserveSlot at the router, by callbacks where nothing has to be waited for but the replica's answer."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from router.core.queue import patience_s
from router.forward import Router
from router.gate import Gate
from router.going import Going
from router.observe import Observer
from router.reserving import ANSWER_TIMEOUT_S, ReserveCall, promise_in
from router.sent import SentCall
from router.service import QUEUE_TIMEOUT_S
from serve_core.errors import ServeError
from serve_core.link.call import LinkCall
from serve_core.model.endpoints import TableVersion
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Replica
from serve_core.runtime.clock import monotonic
from serve_core.runtime.served import ServedCall
from serve_core.v1 import router_pb2, types_pb2
from serve_core.wire.errors import abort
from serve_core.wire.fields import decode_duration
from serve_core.wire.replica import decode_load, encode_replica
from serve_core.wire.slots import decode_ttl, encode_lease, spell_reserved

ENCODED_MAX = 4096
"""Replicas whose description is kept encoded; the oldest are forgotten first."""

READ_MAX = 256
"""Requests that are kept read: those of one caller are alike, and so are those of many. The oldest are forgotten first."""

READ_BYTES_MAX = 1024
"""The longest that is kept."""


class Order(NamedTuple):
    """What a request asks for, and of which deployment, as a version of the table has it."""

    version: TableVersion | None
    key: DeploymentKey
    slots: int
    ttl_s: float | None


class SlotRequests:
    """Serves ReserveSlot as ``RouterService`` does, observed.

    Attributes:
        router: Chooses replicas.
        path: The method's full name.
        gate: Refuses new calls while the router drains.
        observer: Counts calls, and what becomes of reservations.
        encode: Makes the answers.
        read: Requests that were read, as far as they are kept.
    """

    def __init__(self, router: Router, *, path: str, gate: Gate, observer: Observer) -> None:
        self.router = router
        self.path = path
        self.gate = gate
        self.observer = observer
        self.encode = _Encoder()
        self.read: dict[bytes, Order] = {}

    def begin(self, request: bytes, call: ServedCall) -> bool:
        """Serves a request that any free replica may promise at once. False for others: then nothing was done."""
        remaining_s = call.time_remaining()
        left_s = QUEUE_TIMEOUT_S if remaining_s is None else patience_s(remaining_s)
        if not self.gate.takes or left_s <= ANSWER_TIMEOUT_S:
            return False
        router, order, now = self.router, self.read.get(request), monotonic()
        try:
            if order is None or order.version is not router.version:
                order = self._order_of(request)
                if order is None:
                    return False
            going = router.begin(order.key, slots=order.slots, deadline=now + left_s)
        except (ServeError, DecodeError):  # To be told by who knows how.
            return False
        asked = _Asked(self, order, going, call)
        asked.enter(now)
        asked.begin()
        return True

    def _order_of(self, raw: bytes) -> Order | None:
        """Reads a request; None if it has an id, which promises are known by. Raises as ``Router.resolve``."""
        request = router_pb2.RouterServiceReserveSlotRequest.FromString(raw)
        if request.request_id:
            return None
        key = self.router.resolve(request.application, request.deployment).key
        order = Order(self.router.version, key, max(1, request.slots), decode_ttl(request))
        if len(raw) <= READ_BYTES_MAX:
            self.read[raw] = order
            if len(self.read) > READ_MAX:
                del self.read[next(iter(self.read))]
        return order


class _Encoder:
    """Makes the answers. What is the same in all of a replica's is encoded once."""

    def __init__(self) -> None:
        self._known: dict[ReplicaId, tuple[Replica, bytes]] = {}

    def __call__(self, lease: types_pb2.SlotLease, replica: Replica) -> bytes:
        known = self._known.get(replica.replica_id)
        if known is None or known[0] is not replica:
            known = self._learn(replica)
        return spell_reserved(lease, known[1])

    def _learn(self, replica: Replica) -> tuple[Replica, bytes]:
        encoded = router_pb2.RouterServiceReserveSlotResponse(replica=encode_replica(replica)).SerializeToString()
        known = self._known[replica.replica_id] = (replica, encoded)
        if len(self._known) > ENCODED_MAX:
            del self._known[next(iter(self._known))]
        return known


class _Asked(SentCall):
    """One request, from when it was let in."""

    __slots__ = ("_desk", "_going", "_order")

    _caller: ServedCall

    def __init__(self, desk: SlotRequests, order: Order, going: Going, caller: ServedCall) -> None:
        SentCall.__init__(self, desk.gate, desk.observer, desk.path)
        self._desk = desk
        self._order = order
        self._going = going
        self._caller = caller

    def begin(self) -> None:
        """Asks the replica that was chosen, or waits for one."""
        upstream, order, caller = self._going.upstream, self._order, self._caller
        if upstream is None:
            caller.go_on(self._go_on(None))
            return
        try:
            sent = self._desk.router.reserving.ask(upstream, slots=order.slots, ttl_s=order.ttl_s, request_id="")
        except Exception as error:
            self._going.end()
            self.leave(error)
            raise
        if isinstance(sent, LinkCall):
            self.wait_for(sent, caller)
        else:
            caller.go_on(self._go_on(sent))

    def leave(self, error: BaseException | None = None) -> None:
        """As in ``SentCall``; what became of the reservation is counted, too."""
        SentCall.leave(self, error)
        self._desk.observer.reserved(self.outcome)

    def answered(self, sent: LinkCall) -> None:
        """As in ``SentCall``."""
        upstream, promise = self._going.upstream, promise_in(sent)
        if upstream is None or promise is None:
            self._caller.go_on(self._go_on(sent))
            return
        lease = promise.lease
        upstream.leased(decode_duration(lease.ttl))
        self._going.end(decode_load(promise.load))
        self.leave()
        self._caller.answer(self._desk.encode(lease, upstream.replica), ())

    def given_up(self, sent: LinkCall) -> None:
        """As in ``SentCall``. What the replica may still promise is given back."""
        upstream = self._going.upstream
        assert upstream is not None
        upstream.begin_use()
        self._desk.router.reserving.give_up(upstream, sent)
        self._going.end()

    async def _go_on(self, sent: ReserveCall | None) -> bytes:
        context: Any = self._caller
        self._going.sent = sent
        router, order = self._desk.router, self._order
        send = router.reserving.sender(
            slots=order.slots, ttl_s=order.ttl_s, request_id="", deadline=self._going.waiter.deadline, sent=sent
        )
        try:
            reservation = await router.reserve_on(self._going, send)
        except ServeError as error:
            self.leave(error)
            await abort(context, error)
        except BaseException as error:
            self.leave(error)
            raise
        self.leave()
        return self._desk.encode(encode_lease(reservation.lease), reservation.replica)
