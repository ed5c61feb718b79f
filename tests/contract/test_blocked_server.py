"""A server whose event loop is blocked by user code still answers for its connections, whoever reads their sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.runtime import polling
from tests.contract.grpc_rig import PATIENCE_S

pytestmark = pytest.mark.integration

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
HEADER_BYTES = 9
PING, ACK = 6, 1
KEEPALIVE_S = 0.5
OPTIONS = [
    ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
MODES = pytest.mark.parametrize("experiments", ["", polling.OWN_THREADS], ids=["polled", "own-threads"])


class BlockedServer:
    """The process, and how often it has answered a ping."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process
        self._pumps: set[asyncio.Task[None]] = set()
        self._answers = asyncio.Semaphore(0)

    async def until_blocked(self) -> None:
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"blocked\n"

    def let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"let go\n")

    async def answered_pings(self, count: int) -> None:
        """Waits for that many more of those that were sent through ``wire``."""
        for _ in range(count):
            await self._answers.acquire()

    @contextlib.asynccontextmanager
    async def wire(self) -> AsyncIterator[str]:
        """The address of a way to it on which answers to pings are counted."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self._pumps |= {
            asyncio.ensure_future(self._there(reader, back)),
            asyncio.ensure_future(self._back(there, writer)),
        }

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _until_closed(writer):
            while data := await reader.read(65536):
                writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _until_closed(writer):
            while True:
                header, rest = await frame(reader)
                writer.write(header + rest)
                if is_ping_answer(header):
                    self._answers.release()


@contextlib.contextmanager
def _until_closed(writer: asyncio.StreamWriter) -> Iterator[None]:
    try:
        yield
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def blocked_server(experiments: str) -> AsyncIterator[BlockedServer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.contract.blocked_server",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, polling.VARIABLE: experiments},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(3 * PATIENCE_S):
            yield BlockedServer(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


async def frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(HEADER_BYTES)
    return header, await reader.readexactly(int.from_bytes(header[:3]))


def is_ping_answer(header: bytes) -> bool:
    return header[3] == PING and bool(header[4] & ACK)


@MODES
async def test_a_client_with_keepalive_stays_connected(experiments: str) -> None:
    async with (
        blocked_server(experiments) as server,
        server.wire() as address,
        grpc.aio.insecure_channel(address, options=OPTIONS) as channel,
    ):
        method: Any = channel.unary_unary("/test.v1.Any/one_block")
        answer = asyncio.ensure_future(method(b"x"))
        await server.until_blocked()
        # None is sent before the one before it is answered.
        await server.answered_pings(5)
        assert not answer.done()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        server.let_go()
        assert await answer == b"let go\n"
        one: Any = channel.unary_unary("/test.v1.Any/one")
        assert await one(b"still there") == b"still there"


@MODES
async def test_a_new_client_is_greeted_and_calls_wait(experiments: str) -> None:
    async with blocked_server(experiments) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as first:
        block: Any = first.unary_unary("/test.v1.Any/one_block")
        blocking = asyncio.ensure_future(block(b"x"))
        await server.until_blocked()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(PREFACE + bytes((0, 0, 8, PING, 0, 0, 0, 0, 0)) + b"12345678")
        while True:
            header, rest = await frame(reader)
            if is_ping_answer(header):
                break
        assert rest == b"12345678"
        writer.close()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as second:
            await second.channel_ready()
            one: Any = second.unary_unary("/test.v1.Any/one")
            calls = [asyncio.ensure_future(one(b"%d" % number)) for number in range(50)]
            assert not blocking.done()
            server.let_go()
            assert await asyncio.gather(*calls) == [b"%d" % number for number in range(50)]
        assert await blocking == b"let go\n"
