"""Calls through a router, and how far they have come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from router.calls import Budget
from serve_core.v1 import replica_pb2, types_pb2

ENDLESS = Budget(wait_until=None, end_at=None)


def request(name: str = "", *, slots: int = 0) -> replica_pb2.DispatchRequest:
    payload = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"1")
    return replica_pb2.DispatchRequest(method="m", arguments=payload, request_id=name, slots=slots)


def gated(gate: asyncio.Event) -> Callable[[replica_pb2.DispatchRequest], Awaitable[bytes]]:
    async def work(_: replica_pb2.DispatchRequest) -> bytes:
        await gate.wait()
        return b"2"

    return work


async def settled() -> None:
    """Lets everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
