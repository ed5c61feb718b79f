"""Several router processes behind the same ports: ``--workers``."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import grpc.aio
import psutil
import pytest

from serve_core.client import ControllerClient
from serve_core.v1 import router_pb2, router_pb2_grpc
from serve_core.wire.codec import encode_arguments
from serve_core.wire.payload import encode_payload
from tests.integration.conftest import StartWorker
from tests.integration.steady_calls import RETRYING, TIMEOUT_S, calling, grpc_calls
from tests.integration.test_router_process import announced, router
from tests.shell.router_entrances.fake_controller import FakeController, fake_controller, whole_table
from tests.shell.router_entrances.harness import FakeReplica, fake_replica, replica_value, route

pytestmark = pytest.mark.integration
STARTED = 'grpc_server_call_started_total{grpc_method="/test.v1.Echo/Unary"}'


def connection(address: str, *options: tuple[str, Any]) -> grpc.aio.Channel:
    """A client that shares its connection with no other one."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options])


def echo(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/test.v1.Echo/Unary")


@dataclass
class Crew:
    """Two workers in front of one replica."""

    process: Process
    controller: FakeController
    replica: FakeReplica
    fields: dict[str, Any]
    stack: AsyncExitStack

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    async def channel(self, *options: tuple[str, Any]) -> grpc.aio.Channel:
        """A client with a connection of its own."""
        return await self.stack.enter_async_context(connection(self.fields["address"], *options))

    async def get(self, path: str) -> tuple[int, str]:
        """A page, over a connection of its own; another one, should that end with its worker."""
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession(headers={"connection": "close"}) as session:
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"http://{self.fields['http_address']}{path}") as response:
                        return response.status, await response.text()

    async def figure(self, name: str) -> float:
        _, text = await self.get("/metrics")
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    async def whole(self) -> None:
        """Waits until both are there."""
        async with asyncio.timeout(TIMEOUT_S):
            while await self.figure("serve_core_workers") < 2:
                assert (await self.get("/readyz"))[0] == 200


@asynccontextmanager
async def crew(*arguments: str) -> AsyncIterator[Crew]:
    async with fake_replica("r1") as replica, fake_controller() as controller, AsyncExitStack() as stack:
        controller.first = whole_table(1, route(), replicas=(replica_value(replica),))
        shared = ("--controller", controller.address, "--port", "0", "--http-port", "0")
        # In the environment, which the workers have, too.
        process = await stack.enter_async_context(router(*shared, *arguments, SERVE_CORE_ROUTER_WORKERS="2"))
        fields = await announced(process)
        yield Crew(process, controller, replica, fields, await stack.enter_async_context(AsyncExitStack()))


Connect = Callable[[], Awaitable[grpc.aio.Channel]]


async def connected_to_both(connect: Connect) -> dict[str, grpc.aio.Channel]:
    """A client of each worker, by the router's id."""
    found: dict[str, grpc.aio.Channel] = {}
    async with asyncio.timeout(TIMEOUT_S):
        while len(found) < 2:
            channel = await connect()
            stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(channel)
            answer = await stub.GetRouter(router_pb2.GetRouterRequest(), timeout=60, wait_for_ready=True)
            found.setdefault(answer.router_id, channel)
    return found


async def test_each_gets_connections_and_whoever_dies_is_replaced_without_a_loss() -> None:
    timing = ("--quiet-s", "0", "--connection-age-s", "1", "--linger-timeout-s", "0")
    async with crew("--router-id", "front", *timing) as crowd:
        first, second = crowd.pids
        assert crowd.fields["workers"] == [first, second]
        clients = await connected_to_both(crowd.channel)
        assert sorted(clients) == ["front-1.1", "front-2.1"]
        for number, client in enumerate(clients.values(), start=3):
            for _ in range(number):
                await echo(client)(b"hello", timeout=60)
        # At first the other one may be too busy to report in time; what was told once is told by all.
        async with asyncio.timeout(TIMEOUT_S):
            while await crowd.figure(STARTED) < 7.0:
                pass
        assert [await crowd.figure(STARTED) for _ in range(6)] == [7.0] * 6

        methods = [echo(await crowd.channel(("grpc.service_config", RETRYING))) for _ in range(4)]
        async with calling([partial(method, b"hello", timeout=TIMEOUT_S) for method in methods]) as calls:
            counts = [await crowd.figure(STARTED)]
            for worker, end in ((first, signal.SIGKILL), (second, signal.SIGTERM)):
                os.kill(worker, end)
                async with asyncio.timeout(TIMEOUT_S):
                    while worker in crowd.pids:
                        counts.append(await crowd.figure(STARTED))
                counts.append(await crowd.figure(STARTED))
                await crowd.whole()
                counts.append(await crowd.figure(STARTED))
                await calls.more(20)
        assert calls.failed == []
        assert counts == sorted(counts)
        assert await crowd.figure(STARTED) >= counts[-1] >= 7

        workers = [psutil.Process(pid) for pid in crowd.pids]
        assert {first, second}.isdisjoint(worker.pid for worker in workers)
        crowd.process.kill()
        await asyncio.to_thread(psutil.wait_procs, workers, timeout=TIMEOUT_S)
        assert not any(worker.is_running() for worker in workers), "none outlives its parent"


async def test_told_to_stop_all_of_them_finish_what_runs_and_serve_until_their_callers_have_left() -> None:
    async with crew("--quiet-s", "0.5", "--linger-timeout-s", "20") as crowd:
        pids = crowd.pids
        clients = await connected_to_both(crowd.channel)
        assert await crowd.get("/readyz?verbose") in [
            (200, f"[+]table ok\n[+]taking requests ok\n[+]worker {other} ok\nreadyz check passed\n")
            for other in (1, 2)
        ]
        running = []
        for client in clients.values():
            crowd.replica.echo.entered.clear()
            running.append(echo(client)(b"last", metadata=(("act", "hang"),)))
            await crowd.replica.echo.entered.wait()
        # As a service manager does that tells every process.
        for pid in (crowd.process.pid, *pids):
            os.kill(pid, signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT_S):
            while (await crowd.get("/readyz"))[0] != 503:
                pass
        # None takes another one for its successor, so that those who have not noticed yet are served.
        for _ in range(4):
            assert await echo(await crowd.channel())(b"late", timeout=60, wait_for_ready=True) == b"late"
        crowd.replica.echo.go_on.set()
        assert [await call for call in running] == [b"last"] * 2
        await crowd.stack.aclose()
        assert await crowd.process.wait() == 0
        assert not any(map(psutil.pid_exists, pids))


async def test_a_cluster_has_them_and_what_one_promised_another_delivers(start_worker: StartWorker) -> None:
    cluster = await start_worker(cluster={"workers": 2, "connection_age_s": 0.5})
    async with AsyncExitStack() as stack:

        async def connect() -> grpc.aio.Channel:
            return await stack.enter_async_context(connection(cluster.router_address))

        clients = await connected_to_both(connect)
        stubs = [router_pb2_grpc.RouterServiceStub(channel) for channel in clients.values()]
        for one, other in (stubs, stubs[::-1]):
            reserved = await one.ReserveSlot(router_pb2.RouterServiceReserveSlotRequest(application="crew"))
            await other.Dispatch(
                router_pb2.RouterServiceDispatchRequest(
                    application="crew",
                    method="work",
                    arguments=encode_payload(encode_arguments((0.0,), {})),
                    slot_token=reserved.lease.slot_token,
                )
            )
    async with ControllerClient(cluster.controller_address) as client:
        status = await client.status()
        assert {(router.router_id, router.address) for router in status.routers} == {
            (router_id, cluster.router_address) for router_id in clients
        }
    async with grpc_calls(cluster, callers=2, retrying=False) as calls:
        await cluster.restart_router()
    assert calls.failed == []
