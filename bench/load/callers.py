"""Python callers in a closed loop, as a program: by a grpc.aio channel (a call, or a stream of as much), or by a router in here.

Started as ``python -m bench.load.callers WAY ADDRESS``. Each line ``{"concurrency": ..., "seconds": ..., "size": ...}`` of its
input is one measurement, answered by a line of JSON. This process is part of what is measured: its CPU time is told as well.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import uvloop

import serve_core
from bench.load.closed import in_a_loop
from bench.load.messages import ECHO, ITEMS, echo_request, items_request
from bench.targets.bare import UNLIMITED
from router.embedded import EmbeddedRouter
from serve_core.wire.codec import decode_value, encode_arguments

APPLICATION, DEPLOYMENT, METHOD = "echo", "Echo", "echo"
TIMEOUT_S = 30.0
ITEM_BYTES = 1 << 16
Call = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def over_grpc(address: str) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)

        async def call(data: bytes) -> None:
            request = echo_request(len(data))
            check(await echo(request), request)

        yield call


@asynccontextmanager
async def over_stream(address: str) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(address, options=UNLIMITED) as channel:
        items: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(ITEMS)

        async def call(data: bytes) -> None:
            count = max(1, len(data) // ITEM_BYTES)
            size = len(data) // count
            received = 0
            async for item in items(items_request(count, size, 0)):
                received += len(item)
            if received != count * len(echo_request(size)):
                raise SystemExit("the stream ended early")

        yield call


@asynccontextmanager
async def by_embedded_router(address: str) -> AsyncIterator[Call]:
    router = EmbeddedRouter(address)
    await router.start()

    async def call(data: bytes) -> None:
        answer = await router.call(APPLICATION, DEPLOYMENT, METHOD, encode_arguments((data,), {}), timeout_s=TIMEOUT_S)
        check(decode_value(answer), data)

    yield call
    await router.close()


@asynccontextmanager
async def by_embedded_router_arrays(address: str) -> AsyncIterator[Call]:
    import numpy as np  # as a caller that has arrays would have it

    router = EmbeddedRouter(address)
    await router.start()

    async def call(data: bytes) -> None:
        array = np.frombuffer(data, np.uint8)
        answer = await router.call(APPLICATION, DEPLOYMENT, "same", encode_arguments((array,), {}), timeout_s=TIMEOUT_S)
        decoded = decode_value(answer)
        if decoded.shape != array.shape or decoded[-1] != array[-1]:
            raise SystemExit("the echo differs")

    yield call
    await router.close()


@asynccontextmanager
async def by_reservation(address: str) -> AsyncIterator[Call]:
    router = EmbeddedRouter(address)
    await router.start()

    async def call(data: bytes) -> None:
        async with router.choose_replica(APPLICATION, DEPLOYMENT, timeout_s=TIMEOUT_S) as selection:
            answer = await router.dispatch(selection, METHOD, encode_arguments((data,), {}), timeout_s=TIMEOUT_S)
        check(decode_value(answer), data)

    yield call
    await router.close()


@asynccontextmanager
async def by_handle(address: str) -> AsyncIterator[Call]:
    handle = serve_core.get_handle(APPLICATION, controller=address)

    async def call(data: bytes) -> None:
        check(await handle.echo(data), data)

    yield call
    await serve_core.close(address)


@asynccontextmanager
async def by_reserving_handle(address: str) -> AsyncIterator[Call]:
    handle = serve_core.get_handle(APPLICATION, controller=address)

    async def call(data: bytes) -> None:
        async with handle.choose_replica() as selection:
            check(await handle.dispatch(selection).echo(data), data)

    yield call
    await serve_core.close(address)


def check(answer: Any, wanted: bytes) -> None:
    if answer != wanted:
        raise SystemExit("the echo differs")


WAYS = {
    "grpc": over_grpc,
    "stream": over_stream,
    "embedded": by_embedded_router,
    "arrays": by_embedded_router_arrays,
    "reserved": by_reservation,
    "handle": by_handle,
    "reserving_handle": by_reserving_handle,
}


async def measure(call: Call, concurrency: int, seconds: float, size: int) -> dict[str, float]:
    data = b"x" * size
    return await in_a_loop(lambda: call(data), concurrency, seconds)


async def main(way: str, address: str) -> None:
    async with WAYS[way](address) as call:
        await call(b"warm")
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(call, **json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
