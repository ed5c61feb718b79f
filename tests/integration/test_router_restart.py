"""A router goes and another comes, under load: nobody notices."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy
from tests.integration.conftest import StartWorker
from tests.integration.steady_calls import RETRYING, calling, grpc_calls, http_calls
from tests.integration.test_router_process import announced, router
from tests.shell.router_entrances.fake_controller import fake_controller, whole_table
from tests.shell.router_entrances.harness import fake_replica, replica_value, route

pytestmark = pytest.mark.integration
ROUNDS = 3
TIMEOUT_S = 60.0


async def test_a_successor_on_the_same_port_takes_over(start_worker: StartWorker) -> None:
    cluster = await start_worker(cluster={"connection_age_s": 0.5})
    seen = {cluster.router_pid}
    addresses = (cluster.router_address, cluster.http_address)
    async with (
        grpc_calls(cluster) as retrying,
        grpc_calls(cluster, retrying=False) as plain,
        http_calls(cluster) as http,
    ):
        for _ in range(ROUNDS):
            await cluster.restart_router()
            seen.add(cluster.router_pid)
            for calls in (retrying, plain, http):
                await calls.more(20)
    assert (retrying.failed, plain.failed, http.failed) == ([], [], [])
    assert len(seen) == ROUNDS + 1
    assert (cluster.router_address, cluster.http_address) == addresses


async def test_a_killed_router_comes_back_and_a_retrying_client_fails_nothing(start_worker: StartWorker) -> None:
    told: list[str] = []
    policy = RestartPolicy(backoff=Backoff(initial_s=0.01, factor=2.0, max_s=0.1, jitter=0.0))
    cluster = await start_worker(cluster={"restart": True, "restart_policy": policy}, tell=told.append)
    before = cluster.router_pid
    async with grpc_calls(cluster) as calls:
        await cluster.kill_router()
        await cluster.router_back()
    assert calls.failed == []
    assert cluster.router_pid != before
    assert told == [
        "the router ended with status -9; starting it again",
        f"the router is back, pid {cluster.router_pid}",
    ]


async def test_one_router_that_is_stopped_and_started_again_costs_a_retrying_client_nothing() -> None:
    async with fake_replica("r1") as replica, fake_controller() as controller, AsyncExitStack() as stack:
        arguments = ["--controller", controller.address, "--linger-timeout-s", "0.3", "--http-port", "0", "--port"]
        controller.first = whole_table(1, route(), replicas=(replica_value(replica),))
        process = await stack.enter_async_context(router(*arguments, "0"))
        where = (await announced(process))["address"]
        options = [("grpc.service_config", RETRYING)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(where, options=options))
        method: Any = channel.unary_unary("/test.v1.Echo/Unary")
        async with calling([lambda: method(b"hello", timeout=TIMEOUT_S)] * 4) as calls:
            for _ in range(ROUNDS):
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
                process = await stack.enter_async_context(router(*arguments, where.rpartition(":")[2]))
                await announced(process)
                await calls.more(20)
    assert calls.failed == []


async def test_one_that_shares_its_ports_listens_when_it_has_a_table() -> None:
    async with fake_controller() as controller, AsyncExitStack() as stack:
        arguments = ["--controller", controller.address, "--reuse-port", "--quiet-s", "0"]
        first = await stack.enter_async_context(router(*arguments, "--port", "0", "--http-port", "0"))
        fields = await announced(first)
        ports = [fields[name].rpartition(":")[2] for name in ("address", "http_address")]
        second = await stack.enter_async_context(router(*arguments, "--port", ports[0], "--http-port", ports[1]))
        ready = asyncio.create_task(announced(second))  # noqa: TID251
        await controller.subscribed.acquire()
        await controller.subscribed.acquire()
        assert not ready.done()
        controller.publish(1)
        controller.publish(2)
        assert (await ready)["address"] == fields["address"]
        first.send_signal(signal.SIGTERM)
        assert await first.wait() == 0


async def test_one_that_waits_for_a_table_still_ends_when_told() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = str(other.getsockname()[1])
        arguments = ("--controller", "127.0.0.1:1", "--reuse-port", "--port", port, "--http-port", "1")
        async with fake_controller() as controller:
            arguments = ("--controller", controller.address, *arguments[2:])
            async with router(*arguments) as process:
                await controller.subscribed.acquire()
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
