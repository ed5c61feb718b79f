"""How this member reaches the others of its gang, for its user code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc.aio

from replica.barrier import BarrierDesk
from replica.core.barrier import Rounds, Visit
from replica.membership import Membership
from replica.outgoing import BACKOFF, failed_call, left_s
from serve_core.errors import ReplicaUnavailableError
from serve_core.model.gang import GangMember, GangRoster
from serve_core.model.payload import Payload
from serve_core.runtime import clock, log
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.v1 import replica_pb2, replica_pb2_grpc
from serve_core.wire.errors import decode_error
from serve_core.wire.fields import encode_duration
from serve_core.wire.payload import decode_payload, fill_payload
from serve_core.wire.replica import encode_gang

ANSWER_GRACE_S = 2.0
"""How long the leader's answer may take to arrive that the time at a barrier is over."""

_LEADER = 0
_log = log.get_logger(__name__)


class Peers:
    """Meets and calls the other members. What of that user code sees is ``serve_core.gang``.

    Args:
        membership: Who they are.
        barriers: Where they meet, if this is the leader.
        max_message_bytes: The largest message that is taken.
        unit_random: Gives random numbers from 0 to 1, for jitter.
    """

    def __init__(
        self,
        membership: Membership,
        barriers: BarrierDesk,
        *,
        max_message_bytes: int,
        unit_random: Callable[[], float],
    ) -> None:
        self._membership = membership
        self._barriers = barriers
        self._max_message_bytes = max_message_bytes
        self._unit_random = unit_random
        self._rounds = Rounds()
        self._peers: dict[GangMember, _Peer] = {}
        self.barrier_timeout_s = 0.0
        """Seconds to wait at a barrier when user code does not say."""

    @property
    def roster(self) -> GangRoster:
        """Who is in the gang, as of now."""
        return self._membership.roster

    @property
    def rank(self) -> int:
        """This member's rank."""
        return self._membership.gang.rank

    async def barrier(self, name: str, timeout_s: float | None) -> None:
        """See ``GangContext.barrier``."""
        roster = self.roster
        timeout_s = self.barrier_timeout_s if timeout_s is None else timeout_s
        visit = self._rounds.next(epoch=roster.epoch, rank=self.rank, name=name)
        missing = await self._meet(roster, visit, timeout_s)
        if missing:
            late = ", ".join(_called(roster.members[rank]) for rank in missing)
            raise TimeoutError(f"barrier {name!r} of gang {roster.gang_id}: {late} had not come after {timeout_s:g} s")
        self._rounds.passed(visit)

    async def call(self, rank: int, method: str, arguments: Payload, *, timeout_s: float, request_id: str) -> Payload:
        """See ``GangPeer.call``."""
        roster = self.roster
        ends_at = clock.monotonic() + timeout_s
        request = replica_pb2.DispatchRequest(
            method=method,
            request_id=request_id,
            gang=encode_gang(replace(self._membership.gang, epoch=roster.epoch)),
        )
        fill_payload(request.arguments, arguments)
        async with self._peer(roster.members[rank]) as peer:
            attempt = 0
            while True:
                await self._connected(peer, roster, ends_at)
                try:
                    response = await peer.stub.Dispatch(request, timeout=left_s(ends_at))
                    return decode_payload(response.result)
                except grpc.aio.AioRpcError as error:
                    refused = failed_call(
                        error,
                        replica_id=peer.member.replica_id,
                        what=f"{method}() of {peer.name}",
                        timeout_s=timeout_s,
                    )
                    if not isinstance(refused, ReplicaUnavailableError):
                        raise refused from error
                    await self._pause(roster, refused, ends_at, attempt)
                attempt += 1

    async def close(self) -> None:
        """Ends every connection, with whatever is still on it."""
        for peer in self._peers.values():
            await peer.channel.close()

    async def _meet(self, roster: GangRoster, visit: Visit, timeout_s: float) -> tuple[int, ...]:
        if visit.rank == _LEADER:
            return await self._barriers.meet(roster.gang_id, visit, timeout_s=timeout_s)
        ends_at = clock.monotonic() + timeout_s
        try:
            async with (
                self._membership.under(roster, timeout_s=timeout_s + ANSWER_GRACE_S),
                self._peer(roster.leader) as leader,
            ):
                return await self._join(leader, roster, visit, ends_at)
        except TimeoutError:
            return (_LEADER,)

    async def _join(self, leader: _Peer, roster: GangRoster, visit: Visit, ends_at: float) -> tuple[int, ...]:
        """Comes to the leader's barrier, again and again while the connection is lost."""
        attempt = 0
        while True:
            request = replica_pb2.JoinBarrierRequest(
                gang_id=roster.gang_id,
                gang_epoch=visit.epoch,
                rank=visit.rank,
                name=visit.name,
                round=visit.round,
                timeout=encode_duration(left_s(ends_at)),
            )
            try:
                response = await leader.stub.JoinBarrier(request, wait_for_ready=True)
                return tuple(response.missing_ranks)
            except grpc.aio.AioRpcError as error:
                known = decode_error(error)
                if known is not None:
                    raise known from error
                _log.debug("the connection to the leader is lost", error=error.details())
            await asyncio.sleep(BACKOFF.delay_s(attempt, self._unit_random()))
            attempt += 1

    async def _connected(self, peer: _Peer, roster: GangRoster, ends_at: float) -> None:
        async with self._membership.under(roster):
            if await wait_ready(peer.channel, left_s(ends_at)):
                return
        message = f"{peer.name} does not answer at {peer.member.address}: nothing was run"
        raise ReplicaUnavailableError(message, details={"replicaId": peer.member.replica_id})

    async def _pause(self, roster: GangRoster, refused: ReplicaUnavailableError, ends_at: float, attempt: int) -> None:
        """Waits before the next try of a call that was not run, as long as there is time for one."""
        delay_s = BACKOFF.delay_s(attempt, self._unit_random())
        if left_s(ends_at) <= delay_s:
            raise refused
        async with self._membership.under(roster):
            await asyncio.sleep(delay_s)

    @asynccontextmanager
    async def _peer(self, member: GangMember) -> AsyncIterator[_Peer]:
        """The connection to a member, which stays open for as long as the block lasts, also when the member is replaced."""
        for other in [known for known in self._peers if known not in self.roster.members]:
            if not self._peers[other].users:
                await self._peers.pop(other).channel.close()
        peer = self._peers.get(member)
        if peer is None:
            peer = self._peers[member] = _Peer(member, self._max_message_bytes)
        peer.users += 1
        try:
            yield peer
        finally:
            peer.users -= 1


class _Peer:
    """The connection to one member."""

    def __init__(self, member: GangMember, max_message_bytes: int) -> None:
        self.member = member
        self.users = 0
        self.name = _called(member)
        self.channel = open_channel(member.address, max_message_bytes=max_message_bytes)
        self.stub: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(self.channel)


def _called(member: GangMember) -> str:
    return f"rank {member.rank} ({member.role})" if member.role else f"rank {member.rank}"
