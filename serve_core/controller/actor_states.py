"""Stores and hands out the states of actors, and asks actors for theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count

from serve_core.controller.blobs import blobs, part_keys, parts_of
from serve_core.controller.loop import ReconcileLoop
from serve_core.controller.persistence import RecordStore
from serve_core.controller.world import World
from serve_core.errors import (
    ActorDiedError,
    ActorFencedError,
    ActorUnavailableError,
    ApplicationError,
    ConfigInvalidError,
    FieldViolation,
    MessageTooLargeError,
    QueueFullError,
)
from serve_core.model.ids import DeploymentKey, ReplicaId
from serve_core.model.replica import Failure
from serve_core.plan.actor_records import SnapshotRecord
from serve_core.plan.actor_state import Caller, Life, life_of, serving_life, store_state
from serve_core.runtime import log
from serve_core.v1 import controller_pb2
from serve_core.wire.replica import decode_failure

STATE_BYTES_MAX = 64 << 20
"""The largest state of one actor that is stored."""

BUFFERED_BYTES_MAX = 4 * STATE_BYTES_MAX
"""Bytes of states that may be on their way into the store at once; more is refused, and may be sent again."""

Ask = Callable[[ReplicaId, int, int], bool]
"""Tells an attached actor (replica id, epoch) to save its state for the request of this number; False if it is not there."""

_log = log.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Asked:
    """Someone who waits for the answer to a command."""

    replica_id: ReplicaId
    snapshot: SnapshotRecord | None = None
    failure: Failure | None = None


class ActorStates:
    """The stored states of all actors.

    Args:
        world: What is known.
        loop: Changes records, one at a time: so whether an actor is the live one and its state are saved together.
        store: Holds the bytes.
        ask: Tells an actor to save its state.
        timeout_s: For one upload, and for the answer to a request.
    """

    def __init__(self, world: World, loop: ReconcileLoop, store: RecordStore, *, ask: Ask, timeout_s: float) -> None:
        self._world = world
        self._loop = loop
        self._store = store
        self._ask = ask
        self._timeout_s = timeout_s
        self._requests = count(1)
        self._asked: dict[int, _Asked] = {}
        self._buffered = 0

    async def save(self, requests: AsyncIterator[controller_pb2.SaveActorStateRequest]) -> None:
        """Takes an actor's upload. Returns once it is stored: whole, or not at all.

        Raises:
            ActorFencedError: It does not come from the live incarnation.
            ConfigInvalidError: It ended before its last message, or did not come in time.
            MessageTooLargeError: The state is larger than may be stored.
            QueueFullError: Too much is on its way already.
            StoreUnusableError: It could not be stored.
        """
        first = await anext(requests, None)
        if first is None:
            raise _broken("the stream ended before its first message")
        caller = Caller(replica_id=ReplicaId(first.replica_id), epoch=first.epoch, incarnation=first.incarnation)
        life = life_of(self._world.records, caller)  # before its bytes are read
        if first.HasField("failure"):
            self._refused(first.request, caller, decode_failure(first.failure))
            return
        data = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._read(first, requests, data)
            snapshot = await self._store_it(life, caller, first.sequence, data)
        except TimeoutError:
            raise _broken(f"the state did not come within {self._timeout_s:g} s") from None
        finally:
            self._buffered -= len(data)
        asked = self._waiting_for(first.request, caller)
        if asked is not None:
            asked.snapshot = snapshot
            self._world.changed.beat()

    async def load(self, caller: Caller) -> AsyncGenerator[bytes, None]:
        """The state that a life of an actor begins from, in parts; nothing if it begins empty.

        Raises:
            ActorFencedError: It is not the live incarnation.
            StoreUnusableError: It cannot be read.
        """
        life = life_of(self._world.records, caller)
        snapshot = life.actor.snapshot
        if not life.gang.restore or snapshot is None:
            return
        for key in part_keys(life.gang.key, life.actor.key, snapshot):
            part = await self._store.read_blob(key)
            if part is None:
                life_of(self._world.records, caller)
                raise ActorFencedError(f"the state of actor '{life.actor.key.name}' was replaced while it was read")
            yield part

    async def request(self, key: DeploymentKey, name: str) -> SnapshotRecord:
        """Has an actor save its state as it is now, and waits until that is stored.

        Raises:
            ActorDiedError: It ended meanwhile.
            ActorUnavailableError: It does not serve, or did not answer in time.
            ActorUnknownError: There is no such actor.
            ApplicationError: It could not give its state.
            DeploymentUnknownError: There is no such deployment.
        """
        life = serving_life(self._world.records, key, name)
        member, number = life.gang.members[0], next(self._requests)
        asked = self._asked[number] = _Asked(member.replica_id)
        try:
            if not self._ask(member.replica_id, member.epoch, number):
                raise ActorUnavailableError(
                    f"actor '{name}' of {key} is not attached now; ask again", retry_after_s=1.0
                )
            async with asyncio.timeout(self._timeout_s):
                return await self._answer(life, asked)
        except TimeoutError:
            message = f"actor '{name}' of {key} did not save its state within {self._timeout_s:g} s; see its log"
            raise ActorUnavailableError(message) from None
        finally:
            del self._asked[number]

    async def _answer(self, life: Life, asked: _Asked) -> SnapshotRecord:
        """The answer, or the error of an actor that ends before."""
        while asked.snapshot is None:
            if asked.failure is not None:
                raise ApplicationError(asked.failure.message, remote_traceback=asked.failure.traceback)
            seen = self._world.changed.count
            gang = self._world.records.gangs.get(life.gang.gang_id)
            if gang is None or gang.phase is not life.gang.phase:
                name, incarnation = life.actor.key.name, life.gang.incarnation
                raise ActorDiedError(
                    f"incarnation {incarnation} of actor '{name}' ended before its state was stored",
                    details={"actor": name, "incarnation": str(incarnation)},
                )
            await self._world.changed.after(seen)
        return asked.snapshot

    async def _read(
        self,
        message: controller_pb2.SaveActorStateRequest,
        requests: AsyncIterator[controller_pb2.SaveActorStateRequest],
        data: bytearray,
    ) -> None:
        while True:
            if len(data) + len(message.data) > STATE_BYTES_MAX:
                raise MessageTooLargeError(
                    f"the state is larger than {STATE_BYTES_MAX} bytes, the most that is stored of one actor",
                    details={"limitBytes": str(STATE_BYTES_MAX)},
                )
            if self._buffered + len(message.data) > BUFFERED_BYTES_MAX:
                raise QueueFullError("too many states are stored at once; send it again", retry_after_s=1.0)
            data += message.data
            self._buffered += len(message.data)
            if message.last:
                return
            following = await anext(requests, None)
            if following is None:
                raise _broken("the stream ended before its last message: nothing is stored")
            message = following

    async def _store_it(self, life: Life, caller: Caller, sequence: int, data: bytearray) -> SnapshotRecord:
        parts = parts_of(data)
        snapshot = SnapshotRecord(
            incarnation=caller.incarnation,
            sequence=sequence,
            size_bytes=len(data),
            parts=len(parts),
            time=self._world.now(),
        )
        await self._loop.change(
            lambda records: store_state(records, caller, snapshot),
            blobs=blobs(life.gang.key, life.actor.key, snapshot, parts),
        )
        _log.info(
            "state stored",
            actor=life.actor.key.name,
            deployment=str(life.gang.key),
            incarnation=snapshot.incarnation,
            state_bytes=snapshot.size_bytes,
        )
        return snapshot

    def _refused(self, request: int, caller: Caller, failure: Failure) -> None:
        _log.warning("an actor gave no state", replica=caller.replica_id, why=failure.message)
        asked = self._waiting_for(request, caller)
        if asked is not None:
            asked.failure = failure
            self._world.changed.beat()

    def _waiting_for(self, request: int, caller: Caller) -> _Asked | None:
        asked = self._asked.get(request)
        return asked if asked is not None and asked.replica_id == caller.replica_id else None


def _broken(why: str) -> ConfigInvalidError:
    return ConfigInvalidError([FieldViolation("data", why)], what="the state of an actor")
