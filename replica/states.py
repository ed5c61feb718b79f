"""An actor's state, to and from the controller, in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc.aio

from serve_core.errors import ControllerUnreachableError, ServeError
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure
from serve_core.runtime.channel import open_channel, wait_ready
from serve_core.v1 import controller_pb2, controller_pb2_grpc
from serve_core.wire.errors import decode_error
from serve_core.wire.replica import encode_failure

PART_BYTES = 1 << 20
CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 60.0
"""For one state, in either direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is told the controller: a state, as the how-manieth of this life, and for which request; or why there is none."""

    sequence: int
    request: int = 0
    data: bytes = b""
    failure: Failure | None = None


class StoredStates:
    """Where the states of one life of an actor are kept.

    Args:
        controller: ``HOST:PORT`` of the controller.
        replica_id: The process that asks.
        epoch: Its epoch.
        max_message_bytes: The largest message that is taken.
    """

    def __init__(self, controller: str, *, replica_id: ReplicaId, epoch: int, max_message_bytes: int) -> None:
        self._controller = controller
        self._replica_id = replica_id
        self._epoch = epoch
        self._max_message_bytes = max_message_bytes

    async def save(self, incarnation: int, snapshot: Snapshot) -> None:
        """Returns once the state is stored.

        Raises:
            ActorFencedError: This is not the live incarnation.
            ControllerUnreachableError: No controller answered, or its answer was lost: it may be stored.
            ServeError: It cannot be stored.
        """
        async with self._channel() as channel:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            await self._connect(channel)
            try:
                await stub.SaveActorState(self._parts(incarnation, snapshot), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise self._told(error) from error

    async def load(self, incarnation: int) -> bytes | None:
        """The state that this life begins from; None if it begins empty.

        Raises:
            ActorFencedError: This is not the live incarnation.
            ControllerUnreachableError: No controller answered.
            ServeError: It cannot be read.
        """
        request = controller_pb2.LoadActorStateRequest(
            replica_id=self._replica_id, epoch=self._epoch, incarnation=incarnation
        )
        async with self._channel() as channel:
            stub: controller_pb2_grpc.ControllerServiceAsyncStub = controller_pb2_grpc.ControllerServiceStub(channel)
            await self._connect(channel)
            try:
                parts = [part.data async for part in stub.LoadActorState(request, timeout=TIMEOUT_S)]
            except grpc.aio.AioRpcError as error:
                raise self._told(error) from error
        return b"".join(parts) if parts else None

    def _channel(self) -> grpc.aio.Channel:
        return open_channel(self._controller, max_message_bytes=self._max_message_bytes)

    async def _connect(self, channel: grpc.aio.Channel) -> None:
        if not await wait_ready(channel, CONNECT_TIMEOUT_S, fail_fast=True):
            raise ControllerUnreachableError(f"no controller answers at {self._controller}")

    def _parts(self, incarnation: int, snapshot: Snapshot) -> Iterator[controller_pb2.SaveActorStateRequest]:
        ends = range(PART_BYTES, len(snapshot.data) + PART_BYTES, PART_BYTES) or (PART_BYTES,)
        for end in ends:
            part = controller_pb2.SaveActorStateRequest(
                data=snapshot.data[end - PART_BYTES : end], last=end >= len(snapshot.data)
            )
            if end == PART_BYTES:
                part.replica_id, part.epoch = self._replica_id, self._epoch
                part.incarnation, part.sequence, part.request = incarnation, snapshot.sequence, snapshot.request
                if snapshot.failure is not None:
                    part.failure.CopyFrom(encode_failure(snapshot.failure))
            yield part

    def _told(self, error: grpc.aio.AioRpcError) -> ServeError:
        known = decode_error(error)
        if known is not None:
            return known
        return ControllerUnreachableError(
            f"the controller at {self._controller} did not answer: {error.code().name}: {error.details()}"
        )
