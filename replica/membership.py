"""This replica's place in its gang: who the others are, by the newest roster that the controller told.

A gang of one needs no controller for that. In a larger one user code is not even imported before the first roster: the
variables that launchers set must be there by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager

from replica.barrier import BarrierDesk
from replica.rendezvous import ReservedPort
from replica.state import ReplicaState
from serve_core.errors import GangChangedError
from serve_core.model.gang import GangMember, GangRoster
from serve_core.model.replica import Gang
from serve_core.runtime import address, log
from serve_core.wire.fields import invalid

_log = log.get_logger(__name__)


class Membership:
    """Knows the gang.

    Args:
        state: Who this replica is; it reports how the gang stands.
        barriers: Where the gang's members meet, if this is their leader.
        environ: The variables of this process.
    """

    def __init__(self, state: ReplicaState, barriers: BarrierDesk, environ: MutableMapping[str, str]) -> None:
        self._state = state
        self._barriers = barriers
        self._environ = environ
        self._roster: GangRoster | None = None
        self._port: ReservedPort | None = None
        self._listeners: set[Callable[[], None]] = set()
        self._news = asyncio.Event()

    @property
    def gang(self) -> Gang:
        """The gang, as far as one member knows it."""
        return self._state.replica.gang

    @property
    def roster(self) -> GangRoster:
        """Who is in the gang. Only once there is a roster."""
        assert self._roster is not None
        return self._roster

    @property
    def epoch(self) -> int:
        """The epoch of the roster; 0 before the first."""
        return 0 if self._roster is None else self._roster.epoch

    def join(self) -> None:
        """The controller has said which gang this is. May be called again."""
        gang = self.gang
        self._barriers.serve(gang)
        if gang.size == 1:
            if self._roster is None:
                self._hold(self._gang_of_one())
        elif gang.rank == 0 and self._port is None:
            self._port = ReservedPort()
            self._state.rendezvous_port = self._port.number

    def take(self, roster: GangRoster) -> None:
        """The controller has said who is in the gang. What is known already, or older, changes nothing.

        Raises:
            ConfigInvalidError: It is not the roster of this gang.
        """
        gang = self.gang
        ids = [member.replica_id for member in roster.members]
        if roster.gang_id != gang.gang_id or len(ids) != gang.size or ids[gang.rank] != self._state.replica.replica_id:
            raise invalid("roster", f"is not one of gang {gang.gang_id!r} with this replica as rank {gang.rank}")
        if roster.epoch > self.epoch:
            self._hold(roster)

    def close(self) -> None:
        """Gives up the port that is kept free for the gang."""
        if self._port is not None:
            self._port.close()

    async def reach(self, epoch: int) -> None:
        """Waits until there is a roster of this epoch, or of a later one."""
        while self.epoch < epoch:
            await self._news.wait()

    async def follow(self, act: Callable[[GangRoster], Awaitable[bool]]) -> None:
        """Has ``act`` deal with each change of the roster, the newest first, and reports what it dealt with well."""
        seen = self._state.gang_epoch
        while True:
            await self.reach(seen + 1)
            roster = self.roster
            seen = roster.epoch
            if await act(roster):
                self._state.act_on(roster.epoch)

    def require(self, roster: GangRoster) -> None:
        """Raises GangChangedError unless this roster still holds."""
        if roster.epoch != self.epoch:
            raise GangChangedError(
                f"a member of gang {roster.gang_id} was replaced: its epoch was {roster.epoch} and is {self.epoch}",
                details={"gangId": roster.gang_id, "epoch": str(self.epoch)},
            )

    @asynccontextmanager
    async def under(self, roster: GangRoster, *, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Runs the block as long as this roster holds, and at most ``timeout_s`` seconds.

        Raises:
            GangChangedError: The roster holds no more.
            TimeoutError: The time is over.
        """
        self.require(roster)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s) as limit:

                def end() -> None:
                    if not limit.expired():
                        limit.reschedule(loop.time())

                with self._listening(end):
                    yield
        except TimeoutError:
            if limit.expired():
                self.require(roster)
            raise

    @contextmanager
    def _listening(self, listener: Callable[[], None]) -> Iterator[None]:
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def _hold(self, roster: GangRoster) -> None:
        self._roster = roster
        if len(roster.members) > 1:
            _log.info("the gang is known", epoch=roster.epoch, size=len(roster.members))
            self._environ.update(roster.environment(self.gang.rank))
        self._state.regroup(roster.epoch)
        self._barriers.begin(roster.epoch)
        self._news.set()
        self._news = asyncio.Event()
        for listener in tuple(self._listeners):
            listener()

    def _gang_of_one(self) -> GangRoster:
        replica = self._state.replica
        host, _ = address.split(replica.address)
        member = GangMember(
            replica_id=replica.replica_id,
            rank=0,
            epoch=replica.epoch,
            address=replica.address,
            node_id=replica.node_id,
            role=replica.gang.role,
        )
        return GangRoster(
            gang_id=replica.gang.gang_id, epoch=replica.gang.epoch, members=(member,), rendezvous_host=host
        )
