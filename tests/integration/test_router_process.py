"""``python -m router`` as a process: how it starts, how it fails to, and how it ends."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.errors import DrainingError
from serve_core.runtime.process import parse_announcement
from serve_core.wire.errors import decode_error
from tests.shell.router_entrances.fake_controller import fake_controller
from tests.shell.router_entrances.harness import fake_replica, replica_value, route

pytestmark = pytest.mark.integration


@asynccontextmanager
async def router(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", *arguments, stdout=PIPE, stderr=PIPE, env=os.environ | environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def announced(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = parse_announcement((await process.stdout.readline()).decode())
    assert line is not None
    role, fields = line
    assert role == "router"
    assert fields["pid"] == process.pid
    return fields


async def refused(method: Any) -> None:
    """Calls until the router says that it drains: its signal takes a moment to arrive."""
    error = None
    while error is None:
        try:
            await method(b"one more", timeout=60)
        except grpc.aio.AioRpcError as raised:
            error = decode_error(raised)
    assert isinstance(error, DrainingError)


async def test_it_serves_and_drains_on_sigterm() -> None:
    async with fake_replica("r1") as replica, fake_controller() as controller:
        arguments = ("--controller", controller.address, "--port", "0", "--http-port", "0")
        async with router(*arguments, "--linger-timeout-s", "0") as process:
            fields = await announced(process)
            controller.publish(1, route(), replicas=(replica_value(replica),))
            await controller.acknowledged.wait()
            async with grpc.aio.insecure_channel(fields["address"]) as channel:
                method: Any = channel.unary_unary("/test.v1.Echo/Unary")
                assert await method(b"hello", timeout=60, wait_for_ready=True) == b"hello"
                running = method(b"last", metadata=(("act", "hang"),))
                await replica.echo.entered.wait()
                process.send_signal(signal.SIGTERM)
                await refused(method)
                replica.echo.go_on.set()
                assert await running == b"last"
            assert await process.wait() == 0


async def test_a_second_signal_ends_it_at_once() -> None:
    async with fake_replica("r1") as replica, fake_controller() as controller:
        environment = {"SERVE_CORE_ROUTER_CONTROLLER": controller.address, "SERVE_CORE_ROUTER_PORT": "0"}
        async with router("--http-port", "0", "--linger-timeout-s", "0", **environment) as process:
            fields = await announced(process)
            controller.publish(1, route(), replicas=(replica_value(replica),))
            await controller.acknowledged.wait()
            async with grpc.aio.insecure_channel(fields["address"]) as channel:
                method: Any = channel.unary_unary("/test.v1.Echo/Unary")
                running = method(b"last", metadata=(("act", "hang"),))
                await replica.echo.entered.wait()
                process.send_signal(signal.SIGTERM)
                await refused(method)
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 70
                with pytest.raises(grpc.aio.AioRpcError):
                    await running


@pytest.mark.parametrize(("option", "named"), [("--port", "gRPC"), ("--http-port", "HTTP")])
async def test_a_taken_port_is_one_line_and_status_1(option: str, named: str) -> None:
    other = "--http-port" if option == "--port" else "--port"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with router("--controller", "127.0.0.1:1", option, port, other, "0") as process:
            out, err = await process.communicate()
    assert process.returncode == 1
    assert out == b""
    (line,) = err.decode().splitlines()
    assert line.startswith(f"error: PORT_TAKEN: for {named} ({option}), the address 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--controller"),
        (("--controller", "nowhere"), "CONFIG_INVALID"),
        (("--controller", "h:1", "--port", "x"), "--port"),
        (("--controller", "h:1", "--nonsense"), "--nonsense"),
    ],
)
async def test_wrong_usage_is_status_2(arguments: tuple[str, ...], told: str) -> None:
    async with router(*arguments) as process:
        out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert told in err.decode()


async def test_it_dies_with_the_process_it_belongs_to() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    arguments = ("--controller", "127.0.0.1:1", "--port", "0", "--http-port", "0", "--die-with", str(parent.pid))
    async with router(*arguments) as process:
        await announced(process)
        parent.kill()
        await parent.wait()
        assert await process.wait() == 70
