"""Calls that the other members of the gang make, past the slots.

Each is made for a request that holds a slot in some member, or for no request at all. If it took a slot here, members that
call each other could wait for each other for ever; and while a gang drains, the members that have drained could not help
those that have not.
"""

from __future__ import annotations

import asyncio

from replica.calls import Calls, Context
from replica.desk import SlotDesk
from replica.membership import Membership
from replica.methods import MethodTable
from replica.stay import Stay
from replica.threads import ThreadRunner
from replica.worker import Worker
from serve_core.errors import DrainingError, GangChangedError, NoSlotError, ReplicaUnavailableError
from serve_core.model.replica import Gang
from serve_core.v1 import replica_pb2
from serve_core.wire.payload import decode_call_arguments, fill_payload
from serve_core.wire.replica import decode_gang, encode_load

CALLS_MAX = 256
"""Calls of the gang that run at once in one member; more are refused. Each has a thread of its own if it needs one."""

ROSTER_WAIT_S = 5.0
"""How long a call waits for the roster that its caller knows, which is on its way to this member, too."""


class GangLane:
    """Takes the calls of the other members, from the end of the constructor to the shutdown hook.

    Args:
        membership: Who they are.
        desk: Whose load is told with each answer.
        calls: The calls that run.
    """

    def __init__(self, membership: Membership, desk: SlotDesk, calls: Calls) -> None:
        self._membership = membership
        self._desk = desk
        self._calls = calls
        self._threads = ThreadRunner(CALLS_MAX)
        self._worker = Worker(calls, self._threads)
        self._methods: MethodTable | None = None
        self._closed = False
        self._running = 0

    def serve(self, methods: MethodTable) -> None:
        """Serves these from now on."""
        self._methods = methods

    def close(self) -> None:
        """Takes no call any more."""
        self._closed = True
        self._threads.close()

    async def dispatch(self, request: replica_pb2.DispatchRequest, context: Context) -> replica_pb2.DispatchResponse:
        """Calls a method with one answer.

        Raises:
            ServeError: It was refused, or user code raised.
        """
        await self._require_same(decode_gang(request.gang))
        method = self._admitting().find(request.method, stream=False)
        arguments = decode_call_arguments(request)
        with self._calls.inside(_Visit(self), context, method=method.name, request_id=request.request_id) as stay:
            result = await self._worker.call(method, arguments, stay)
        response = replica_pb2.DispatchResponse(load=encode_load(self._desk.load))
        fill_payload(response.result, result)
        return response

    def came(self) -> None:
        """A call runs."""
        self._running += 1

    def went(self) -> None:
        """A call has ended, with all its threads."""
        self._running -= 1

    async def _require_same(self, caller: Gang) -> None:
        """Raises GangChangedError unless the caller is of this gang and of the same epoch, here and now or soon."""
        mine = self._membership.gang
        if caller.gang_id == mine.gang_id:
            try:
                async with asyncio.timeout(ROSTER_WAIT_S):
                    await self._membership.reach(caller.epoch)
            except TimeoutError:
                pass  # it is told below
            if caller.epoch == self._membership.epoch:
                return
        raise GangChangedError(
            f"gang {caller.gang_id!r} of epoch {caller.epoch} is not here any more: this is gang {mine.gang_id!r} of "
            f"epoch {self._membership.epoch}; nothing was run",
            details={"gangId": caller.gang_id, "epoch": str(self._membership.epoch)},
        )

    def _admitting(self) -> MethodTable:
        """The methods, if a call can be taken now."""
        replica_id = str(self._desk.replica_id)
        details = {"replicaId": replica_id}
        if self._closed:
            raise DrainingError(f"replica {replica_id} ends: nothing was run", details=details)
        if self._methods is None:
            message = f"the constructor of replica {replica_id} has not returned yet: nothing was run"
            raise ReplicaUnavailableError(message, details=details)
        if self._running >= CALLS_MAX:
            message = f"{CALLS_MAX} calls of its gang run in replica {replica_id} already: nothing was run"
            raise NoSlotError(message, details=details)
        return self._methods


class _Visit(Stay):
    """One call's stay in the lane."""

    __slots__ = ("_lane",)

    def __init__(self, lane: GangLane) -> None:
        super().__init__()
        self._lane = lane
        lane.came()

    def leave(self, *, ok: bool) -> None:
        """Is called once, when the stay is over."""
        del ok
        self._lane.went()
