"""A load generator: closed loop, a number of callers at once, for a time.

Started once per variant: python bench/load.py VARIANT ADDRESS. Each line `CONCURRENCY SECONDS` on its standard input runs
one measurement and prints one JSON line: requests, seconds, latency quantiles in milliseconds, CPU seconds of this process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import uvloop

from echo.v1 import echo_pb2
from router.embedded import EmbeddedRouter
from serve_core.wire.codec import decode_value, encode_arguments

DATA = b"x" * 100
Call = Callable[[], Awaitable[None]]


@asynccontextmanager
async def calls_over_grpc(address: str) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(address) as channel:
        echo = channel.unary_unary("/echo.v1.EchoService/Echo")
        request = echo_pb2.EchoRequest(data=DATA).SerializeToString()

        async def call() -> None:
            if await echo(request) != request:
                raise SystemExit("the echo differs")

        yield call


@asynccontextmanager
async def calls_by_embedded_router(address: str) -> AsyncIterator[Call]:
    router = EmbeddedRouter(address)
    await router.start()

    async def call() -> None:
        payload = await router.call("echo", "Echo", "echo", encode_arguments((DATA,), {}), timeout_s=30)
        if decode_value(payload) != DATA:
            raise SystemExit("the echo differs")

    yield call
    await router.close()


@asynccontextmanager
async def calls_by_reservation(address: str) -> AsyncIterator[Call]:
    router = EmbeddedRouter(address)
    await router.start()

    async def call() -> None:
        async with router.choose_replica("echo", "Echo", timeout_s=30) as selection:
            payload = await router.dispatch(selection, "echo", encode_arguments((DATA,), {}), timeout_s=30)
        if decode_value(payload) != DATA:
            raise SystemExit("the echo differs")

    yield call
    await router.close()


VARIANTS = {
    "bare": calls_over_grpc,
    "router": calls_over_grpc,
    "embedded": calls_by_embedded_router,
    "reserve": calls_by_reservation,
}


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(call: Call, concurrency: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while True:
            start = time.perf_counter()
            if start >= end:
                return
            await call()
            latencies.append(time.perf_counter() - start)

    cpu, start = cpu_s(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed, cpu = time.perf_counter() - start, cpu_s() - cpu
    latencies.sort()
    return {
        "requests": len(latencies),
        "seconds": elapsed,
        "cpu_s": cpu,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


async def main(variant: str, address: str) -> None:
    async with VARIANTS[variant](address) as call:
        await call()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            concurrency, seconds = line.split()
            print(json.dumps(await measure(call, int(concurrency), float(seconds))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
