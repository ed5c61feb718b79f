"""Callers that call the application ``work`` through a router, one call after the other, and keep what failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import grpc.aio

from serve_core.launch import LocalCluster
from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments
from serve_core.wire.payload import encode_payload

TIMEOUT_S = 60.0
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "8s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""What users of any language put into their service config: everything else is gRPC's own.

A call waits for a connection, rather than to use up its tries while nobody listens.
"""

Send = Callable[[], Awaitable[Any]]


class SteadyCalls:
    """What became of the calls."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._stopped = False
        self._counted = asyncio.Condition()

    async def more(self, number: int) -> None:
        """Waits until that many more were answered, or one failed."""
        until = self.answered + number
        async with asyncio.timeout(TIMEOUT_S), self._counted:
            await self._counted.wait_for(lambda: self.answered >= until or self.failed)

    def stop(self) -> None:
        """Lets each caller end with the call that it is in."""
        self._stopped = True

    async def caller(self, send: Send) -> None:
        """One caller."""
        while not self._stopped:
            try:
                await send()
            except (grpc.aio.AioRpcError, aiohttp.ClientError) as error:
                self.failed.append(repr(error))
            else:
                self.answered += 1
            async with self._counted:
                self._counted.notify_all()


@asynccontextmanager
async def grpc_calls(cluster: LocalCluster, *, callers: int = 4, retrying: bool = True) -> AsyncIterator[SteadyCalls]:
    """A plain gRPC client that calls all the time; with a retry policy or without."""
    request = router_pb2.RouterServiceDispatchRequest(
        application="crew", method="work", arguments=encode_payload(encode_arguments((0.002,), {}))
    )
    options = [("grpc.service_config", RETRYING)] if retrying else []
    async with grpc.aio.insecure_channel(cluster.router_address, options=options) as channel:
        stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)
        async with calling([lambda: stub.Dispatch(request, timeout=TIMEOUT_S)] * callers) as calls:
            yield calls


@asynccontextmanager
async def http_calls(cluster: LocalCluster, *, callers: int = 4) -> AsyncIterator[SteadyCalls]:
    """HTTP clients that keep their connections alive. None of them sends anything twice."""
    url = f"http://{cluster.http_address}/crew/work"
    async with aiohttp.ClientSession() as session:

        async def send() -> None:
            async with session.post(url, json=[0.002]) as response:
                response.raise_for_status()
                await response.read()

        async with calling([send] * callers) as calls:
            yield calls


@asynccontextmanager
async def calling(senders: list[Send]) -> AsyncIterator[SteadyCalls]:
    """A caller for each of these, for as long as the block lasts, with some calls before and after it."""
    calls = SteadyCalls()
    async with asyncio.TaskGroup() as tasks:
        for send in senders:
            tasks.create_task(calls.caller(send))
        try:
            await calls.more(20)
            yield calls
            await calls.more(20)
        finally:
            calls.stop()
