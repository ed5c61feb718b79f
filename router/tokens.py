"""Tokens that callers bring: of one replica, or of every member of a gang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple

from router.fleet import Fleet
from router.going import Consuming
from router.reserving import Reserving
from router.upstream import Upstream
from serve_core.errors import GangChangedError, ReplicaUnavailableError, ServeError, SlotUnknownError
from serve_core.model.ids import DeploymentKey, GangToken, SlotToken
from serve_core.model.slots import AnyLease, GangLease, Lease
from serve_core.runtime.supervisor import Supervisor


class Part(NamedTuple):
    """One replica's token, and the connection to that replica."""

    upstream: Upstream
    token: str


class Tokens:
    """What can be done with tokens. This router need not have issued them: they name who did.

    Args:
        fleet: The connections to replicas.
        reserving: The slot calls.
        tasks: Owns what keeps the promises of a gang while its leader runs a call.
    """

    def __init__(self, fleet: Fleet, reserving: Reserving, tasks: Supervisor) -> None:
        self._fleet = fleet
        self._reserving = reserving
        self._tasks = tasks

    def locate(self, text: str, key: DeploymentKey | None = None) -> tuple[Part, ...]:
        """The parts of a token, by rank: one, or those of every member of a gang.

        Call them inside ``upstream.use()``, after ``upstream.ready()``.

        Raises:
            SlotUnknownError: The text is no token, or one of another deployment than ``key``.
            ReplicaUnavailableError: The replica is not in this router's table any more.
            GangChangedError: A member of the gang is not, or was replaced.
        """
        tokens = _parsed(text).members
        found = [(token, self._fleet.find(token.replica_id)) for token in tokens]
        for token, upstream in found:
            if upstream is not None and key is not None and upstream.replica.key != key:
                raise SlotUnknownError(
                    f"the slot token is good for {upstream.replica.key}, not for {key}",
                    details={"replicaId": token.replica_id, "deployment": str(key)},
                )
        if len(found) > 1:
            _check_gang(found)
        return tuple(Part(_there(token, upstream), str(token)) for token, upstream in found)

    def locate_whole(self, text: str, key: DeploymentKey) -> tuple[Part, ...]:
        """The parts of a token that is good for every member of a gang. Raises as ``locate``.

        Raises:
            SlotUnknownError: Also where it is good for one member only.
        """
        parts = self._usable(text, key)
        gang = parts[0].upstream.replica.gang
        if gang.size != len(parts):
            raise SlotUnknownError(
                f"the slot token is good for rank {gang.rank} of gang {gang.gang_id} alone, not for its {gang.size} "
                "members: reserve the gang",
                details={"gangId": gang.gang_id, "rank": str(gang.rank), "size": str(gang.size)},
            )
        return parts

    @asynccontextmanager
    async def open(self, text: str, key: DeploymentKey, *, timeout_s: float) -> AsyncIterator[Part]:
        """The part of a token that a call consumes, for a block in which that replica's channel is READY.

        Of a gang's token that is the leader's part: the slots of the other members are held until the block ends, and
        given back then. Raises as ``locate`` and ``renew``; what is left of a gang's promise was given back then.

        Args:
            text: The token.
            key: The deployment that it has to be good for.
            timeout_s: Seconds that the channel has to become READY, and other members to say that they hold.
        """
        leader, *others = self._usable(text, key)
        with leader.upstream.use():
            if not others:
                await leader.upstream.ready(timeout_s)
                yield leader
                return
            try:
                await leader.upstream.ready(timeout_s)
                lease = await self._renew_all(others, ttl_s=None, detach=False, timeout_s=timeout_s)
            except BaseException:
                self._abandon([leader, *others])
                raise
            keeper = self._tasks.spawn(
                self._keep(others, lease.ttl_s), name=f"hold {leader.upstream.replica.gang.gang_id}"
            )
            try:
                yield leader
            finally:
                keeper.cancel()
                self._abandon(others)

    def begin(self, text: str, key: DeploymentKey) -> Consuming | None:
        """What a call needs to consume a token now; to be ended. None if ``open`` has to wait, or raises."""
        issuer = SlotToken.issuer(text)
        upstream = None if issuer is None else self._fleet.find(issuer)
        if upstream is None or upstream.replica.key != key or not upstream.try_use():
            return None
        return Consuming(upstream, text)

    async def release(self, text: str, *, timeout_s: float | None = None) -> bool:
        """Gives a promise back; says whether this freed slots. That of a replica that is lost is void anyway.

        Raises:
            SlotUnknownError: The text is no token.
        """
        parts = self._found(text)
        async with asyncio.TaskGroup() as group:
            releasing = [group.create_task(self._release(part, timeout_s)) for part in parts]
        return any(task.result() for task in releasing)

    def abandon(self, text: str) -> None:
        """Releases a token in the background after its dispatch was cut off without a sign from the replica.

        A cancelled call may not have reached it, and then the token would hold its slots until the lease ends.
        """
        try:
            self._abandon(self._found(text))
        except SlotUnknownError:
            return

    async def renew(self, text: str, *, ttl_s: float | None, detach: bool, timeout_s: float | None) -> AnyLease:
        """Starts a promise's time to live anew; that of a gang on every member, or it is given back.

        Raises:
            SlotError: The token is not live any more, or no token.
            ReplicaUnavailableError: Its replica is lost, and the promise with it.
            GangChangedError: A member of the gang was replaced, and the promise is void.
        """
        parts = self._usable(text)
        if len(parts) == 1:
            upstream, token = parts[0]
            return await self._reserving.renew(upstream, token, ttl_s=ttl_s, detach=detach, timeout_s=timeout_s)
        try:
            return await self._renew_all(parts, ttl_s=ttl_s, detach=detach, timeout_s=timeout_s)
        except ServeError:
            self._abandon(parts)
            raise

    async def check(self, parts: Sequence[Part], *, timeout_s: float) -> None:
        """Sees to it that every part holds, before any of them is used. Otherwise all are given back.

        Raises:
            SlotError, ReplicaUnavailableError: A part does not hold.
        """
        try:
            await self._renew_all(parts, ttl_s=None, detach=False, timeout_s=timeout_s)
        except BaseException:
            self._abandon(parts)
            raise

    def _usable(self, text: str, key: DeploymentKey | None = None) -> tuple[Part, ...]:
        try:
            return self.locate(text, key)
        except GangChangedError:
            self.abandon(text)
            raise

    def _found(self, text: str) -> list[Part]:
        found = [(token, self._fleet.find(token.replica_id)) for token in _parsed(text).members]
        return [Part(upstream, str(token)) for token, upstream in found if upstream is not None]

    def _abandon(self, parts: Sequence[Part]) -> None:
        for upstream, token in parts:
            self._reserving.abandon(upstream, token)

    async def _release(self, part: Part, timeout_s: float | None) -> bool:
        try:
            return await self._reserving.release(part.upstream, part.token, timeout_s=timeout_s)
        except ReplicaUnavailableError:
            return False

    async def _renew_all(
        self, parts: Sequence[Part], *, ttl_s: float | None, detach: bool, timeout_s: float | None
    ) -> GangLease:
        async def renew(part: Part) -> Lease | ServeError:
            try:
                return await self._reserving.renew(
                    part.upstream, part.token, ttl_s=ttl_s, detach=detach, timeout_s=timeout_s
                )
            except ServeError as error:
                return error

        async with asyncio.TaskGroup() as group:
            renewing = [group.create_task(renew(part)) for part in parts]
        leases: list[Lease] = []
        for task in renewing:
            answer = task.result()
            if isinstance(answer, ServeError):
                raise answer
            leases.append(answer)
        return GangLease.of(leases)

    async def _keep(self, parts: Sequence[Part], ttl_s: float) -> None:
        """Renews the promises of members at half their time, for as long as they hold."""
        with ExitStack() as channels:
            for part in parts:
                channels.enter_context(part.upstream.use())
            try:
                while True:
                    await asyncio.sleep(ttl_s / 2)
                    ttl_s = (await self._renew_all(parts, ttl_s=None, detach=False, timeout_s=ttl_s / 2)).ttl_s
            except ServeError:
                return  # A member is lost: its leader, which runs the call, is who can tell what that means.


def _parsed(text: str) -> GangToken:
    token = GangToken.parse(text)
    if token is None:
        raise SlotUnknownError(
            "the slot token is not in the form that serve-core issues: pass it on unchanged, or reserve again",
            details={"length": str(len(text))},
        )
    return token


def _there(token: SlotToken, upstream: Upstream | None) -> Upstream:
    if upstream is None:
        raise ReplicaUnavailableError(
            f"replica {token.replica_id}, which issued the slot token, is not available: reserve again",
            details={"replicaId": token.replica_id},
        )
    return upstream


def _check_gang(found: Sequence[tuple[SlotToken, Upstream | None]]) -> None:
    """Refuses the parts of what is not the same gang as when it was reserved."""
    members = [(token, upstream.replica) for token, upstream in found if upstream is not None]
    lost = [token.replica_id for token, upstream in found if upstream is None]
    replaced = [token.replica_id for token, replica in members if replica.epoch != token.epoch]
    gangs = {replica.gang.gang_id for _, replica in members}
    sizes = {replica.gang.size for _, replica in members}
    ranks = [replica.gang.rank for _, replica in members]
    if len(gangs) > 1 or (not lost and (sizes != {len(found)} or ranks != list(range(len(found))))):
        raise SlotUnknownError(
            f"the slot token names {len(found)} replicas that are not the members of one gang, by rank: pass it on "
            "unchanged, or reserve again",
            details={"members": str(len(found))},
        )
    if lost or replaced or len({replica.gang.epoch for _, replica in members}) > 1:
        which = ", ".join(lost or replaced) or "a member"
        raise GangChangedError(
            f"{which} of the gang that was reserved was lost or replaced since: nothing was run, reserve again",
            details={"gangId": next(iter(gangs), ""), "replicaIds": ",".join(lost or replaced)},
        )
