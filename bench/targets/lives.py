"""serve-core from its start on: how long it takes until a first caller is answered, and until replicas are ready."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from bench.load.messages import ECHO, echo_request
from bench.measure.errors import MeasurementError
from bench.operating import APPLICATION, Operator, steady_spec
from bench.targets.programs import ROOT, Program
from serve_core.client import ControllerClient
from serve_core.launch import LocalCluster, LocalClusterConfig

CPUS = 16.0
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 5.0
TRY_EVERY_S = 0.01


async def command_s(*command: str) -> float:
    """How long a command takes from nothing to its end."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(START_TIMEOUT_S):
        status = await process.wait()
    if status:
        raise MeasurementError(f"{' '.join(command)} ended with status {status}")
    return time.perf_counter() - start


async def first_answer(address: str) -> None:
    """Calls the echo until it answers, as a first caller does."""
    host, _, port = address.rpartition(":")
    request = echo_request(1)
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            with contextlib.suppress(OSError, grpc.aio.AioRpcError):
                # A channel that found nobody waits for a second before it looks again.
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                async with grpc.aio.insecure_channel(address) as channel:
                    echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
                    await echo(request, timeout=CALL_TIMEOUT_S)
                    return
            await asyncio.sleep(TRY_EVERY_S)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in opened]


async def cold_start_s() -> float:
    """From ``serve-core run`` to the first answer through the router."""
    port, http_port, controller_port = free_ports(3)
    ports = ["--port", str(port), "--http-port", str(http_port), "--controller-port", str(controller_port)]
    command = [sys.executable, "-m", "serve_core.cli", "run", "bench.echo_app:app", *ports, "--no-logs"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=env, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await first_answer(f"127.0.0.1:{port}")
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(END_TIMEOUT_S):
            await process.wait()


async def bare_servers_s(count: int) -> float:
    """So many bare grpc.aio servers, started at once: until all listen."""
    start = time.perf_counter()
    async with AsyncExitStack() as stack:
        servers = [Program("bench.targets.bare") for _ in range(count)]
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        return time.perf_counter() - start


class Replicas:
    """Replicas of a cluster, and how long it takes to change them."""

    def __init__(self, cluster: LocalCluster, operator: Operator) -> None:
        self.cluster = cluster
        self._operator = operator
        self._version = 0

    async def become(self, count: int) -> float:
        """So many replicas of a new version, from none or in the place of the last: seconds until all are ready."""
        self._version += 1
        start = time.perf_counter()
        generation = await self._operator.deploy(steady_spec(self._version, num_replicas=count))
        await self._operator.until_whole(generation)
        return time.perf_counter() - start

    async def delete(self) -> None:
        """No replicas any more."""
        async with ControllerClient(self.cluster.controller_address) as client:
            await client.delete(APPLICATION)
        await self._operator.until(lambda status: not status.applications)

    async def pids(self) -> Sequence[int]:
        """Their processes."""
        (application,) = (await self._operator.status()).applications
        return [one.pid for deployment in application.deployments for one in deployment.replicas]


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    """A cluster for as many replicas as one likes; none yet."""
    async with (
        LocalCluster(LocalClusterConfig(cpus=CPUS)) as cluster,
        Operator(cluster.controller_address) as operator,
    ):
        yield Replicas(cluster, operator)
