"""Open streams to replicas, as a client in any language has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
import msgspec

from bench.operating import APPLICATION
from serve_core.model.payload import Encoding
from serve_core.model.status import ReplicaStatus
from serve_core.runtime.channel import open_channel
from serve_core.v1 import replica_pb2, replica_pb2_grpc, router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments, encode_value
from serve_core.wire.payload import encode_payload

TIMEOUT_S = 60.0


class Conversation:
    """One open stream to a replica that was reserved for it."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceAsyncStub, token: str) -> None:
        # Calls have no public type that knows the messages.
        self._call: Any = stub.DispatchStream(timeout=TIMEOUT_S)
        self._token = token

    async def begin(self) -> None:
        opening = router_pb2.RouterServiceDispatchRequest(
            application=APPLICATION,
            method="talk",
            arguments=encode_payload(encode_arguments((), {})),
            slot_token=self._token,
        )
        await self._call.write(router_pb2.RouterServiceDispatchStreamRequest(open=opening))

    async def say(self, word: str) -> int:
        """Who answered; that it is the same word is checked here."""
        item = encode_payload(encode_value(word, like=Encoding.MSGPACK))
        await self._call.write(router_pb2.RouterServiceDispatchStreamRequest(item=item))
        answer = await self._call.read()
        assert answer is not grpc.aio.EOF, "the stream was cut"
        pid, again = msgspec.msgpack.decode(answer.item.data)
        assert again == word
        return int(pid)

    async def end(self) -> None:
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF
        assert await self._call.code() is grpc.StatusCode.OK


async def open_conversations(
    stub: router_pb2_grpc.RouterServiceAsyncStub, replica: ReplicaStatus, count: int
) -> list[Conversation]:
    """So many conversations through the router with one replica, by promises that it made itself."""
    opened: list[Conversation] = []
    async with open_channel(replica.replica.address) as channel:
        direct: replica_pb2_grpc.ReplicaServiceAsyncStub = replica_pb2_grpc.ReplicaServiceStub(channel)
        for _ in range(count):
            reserved = await direct.ReserveSlot(replica_pb2.ReserveSlotRequest(), timeout=TIMEOUT_S)
            opened.append(Conversation(stub, reserved.lease.slot_token))
            await opened[-1].begin()
            assert await opened[-1].say("hello") == replica.pid
    return opened


async def say_to_all(conversations: Iterable[Conversation], word: str) -> list[int]:
    return await asyncio.gather(*(one.say(word) for one in conversations))
