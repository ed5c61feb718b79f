"""The server on grpcio's core under callers that come, leave, break off and are killed: nothing may be lost or left over.

An operation that the core does not expect ends the whole process, and with it these tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
import uvloop

from serve_core.runtime.core.call import ServerCall
from serve_core.runtime.core.completion import EVENTS_PER_TURN
from serve_core.runtime.core.server import CALLS_ASKED_FOR, CoreServer

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
PATIENCE_S = 100.0
HELD_BY_LOGS_MAX = 5
"""Calls that the records of captured logs may hold with their tracebacks."""
NO_REUSE = ("grpc.so_reuseport", 0)
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)

KILLED_CLIENT = """
import asyncio, sys
import grpc.aio

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        calls = [channel.unary_unary("/any/wait")(b"x") for _ in range(20)]
        chats = [channel.stream_stream("/any/chat")() for _ in range(20)]
        for chat in chats:
            await chat.write(b"x")
            await chat.read()
        print("ready", flush=True)
        await asyncio.gather(*calls)

asyncio.run(main())
"""


class Served:
    """A server with methods of every kind, and what ran in it."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()
        self.answered = 0
        self.server = CoreServer(options=[NO_REUSE], running=self.running)
        self.address = ""

    async def start(self) -> None:
        methods: dict[str, Any] = {
            "one": grpc.unary_unary_rpc_method_handler(self.one),
            "wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "deaf": grpc.unary_stream_rpc_method_handler(self.deaf),
            "thread": grpc.unary_unary_rpc_method_handler(self.thread),
            "many": grpc.unary_stream_rpc_method_handler(self.many),
            "join": grpc.stream_unary_rpc_method_handler(self.join),
            "chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "refuse": grpc.stream_stream_rpc_method_handler(self.refuse),
        }
        self.server.add_registered_method_handlers("any", methods)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()

    async def one(self, request: bytes, context: Context) -> bytes:
        self.answered += 1
        return request

    async def wait(self, request: bytes, context: Context) -> bytes:
        await asyncio.get_running_loop().create_future()
        return request

    async def deaf(self, request: bytes, context: Context) -> None:
        """Takes no notice of its cancellation, and writes on."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        for _ in range(3):
            with contextlib.suppress(grpc.aio.InternalError):
                await context.write(request)
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.ABORTED, "late")

    async def thread(self, request: bytes, context: Context) -> bytes:
        return await asyncio.to_thread(bytes.upper, request)

    async def many(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield request * 1000

    async def join(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([request async for request in requests])

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    async def refuse(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def calls_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, ServerCall) for thing in gc.get_objects())


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Caller:
    """Makes calls at random, most of which do not end well."""

    def __init__(self, address: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._address = address
        self._make: tuple[Callable[[Any], Coroutine[Any, Any, None]], ...] = (
            self.answered,
            self.cut_short,
            self.cancelled,
            self.half_read,
            self.half_written,
            self.refused,
            self.in_a_thread,
            self.left_open,
        )

    async def go(self, *, channels: int, calls: int) -> None:
        for _ in range(channels):
            async with grpc.aio.insecure_channel(self._address, options=OWN_CONNECTION) as channel:
                await asyncio.gather(*(self._call(channel) for _ in range(calls)))

    async def _call(self, channel: Any) -> None:
        # A grpc.aio client tells of what it could not send in errors of its own.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            await self._random.choice(self._make)(channel)

    async def answered(self, channel: Any) -> None:
        request = self._random.randbytes(self._random.choice((0, 10, 50_000)))
        assert await channel.unary_unary("/any/one")(request) == request

    async def in_a_thread(self, channel: Any) -> None:
        assert await channel.unary_unary("/any/thread")(b"x") == b"X"

    async def cut_short(self, channel: Any) -> None:
        method = self._random.choice(("wait", "one", "unknown"))
        await channel.unary_unary(f"/any/{method}")(b"x", timeout=self._random.random() / 50)

    async def cancelled(self, channel: Any) -> None:
        call = channel.unary_unary(self._random.choice(("/any/wait", "/any/one")))(b"x")
        await ticks(self._random.randrange(20))
        call.cancel()

    async def half_read(self, channel: Any) -> None:
        call = channel.unary_stream(self._random.choice(("/any/many", "/any/deaf")))(b"x" * 50)
        if self._random.random() < 0.5:
            await asyncio.wait((asyncio.ensure_future(call.read()),), timeout=self._random.random() / 50)
        call.cancel()

    async def half_written(self, channel: Any) -> None:
        call = channel.stream_unary("/any/join")()
        await call.write(b"a")
        if self._random.random() < 0.5:
            await call.done_writing()
            assert await call == b"a"
        call.cancel()

    async def refused(self, channel: Any) -> None:
        call = channel.stream_stream("/any/refuse")()
        await call.write(b"a")
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()

    async def left_open(self, channel: Any) -> None:
        """Its end is that of its connection."""
        call = channel.stream_stream("/any/chat")()
        await call.write(b"a")
        assert await call.read() == b"a"


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_calls_that_end_anyhow_leave_nothing(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], seed: int
) -> None:
    before = calls_in_memory()

    async def test() -> None:
        served = Served()
        await served.start()
        callers = [Caller(served.address, seed * 100 + number) for number in range(4)]
        await asyncio.gather(*(caller.go(channels=8, calls=100) for caller in callers))
        while served.running:
            await asyncio.wait(served.running)
        async with grpc.aio.insecure_channel(served.address) as channel:
            call: Any = channel.unary_unary("/any/one")
            assert await call(b"well") == b"well"
        await served.server.stop(None)
        await served.server.stop(None)
        assert not served.running

    run(loop_factory, test)
    assert calls_in_memory() <= before + HELD_BY_LOGS_MAX


def test_stopping_amid_calls_by_several_at_once_ends_all_of_them(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    before = calls_in_memory()

    async def test() -> None:
        for round_ in range(8):
            served = Served()
            await served.start()
            callers = [Caller(served.address, round_ * 10 + number) for number in range(2)]
            work = asyncio.gather(*(caller.go(channels=1, calls=100) for caller in callers))
            await ticks(round_ * 20)
            given_up = asyncio.ensure_future(served.server.stop(PATIENCE_S))
            await ticks(round_)
            given_up.cancel()
            await asyncio.gather(served.server.stop(0.01), served.server.stop(0), served.server.stop(None))
            await work
            while served.running:
                await asyncio.wait(served.running)

    run(loop_factory, test)
    assert calls_in_memory() <= before + HELD_BY_LOGS_MAX


async def test_a_handler_that_outlives_the_server_does_no_harm() -> None:
    served = Served()
    let_go, entered = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    async def outlive(requests: AsyncIterator[bytes], context: Context) -> None:
        entered.set()
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()
        ending: Any = grpc.aio.EOF  # the stubs know nothing of it
        assert await context.read() is ending
        for attempt in (context.write(b"x"), context.abort(grpc.StatusCode.ABORTED, "late")):
            try:
                await attempt
            except grpc.aio.BaseError as error:
                outcomes.append(type(error).__name__)
            except grpc.aio.AbortError:
                outcomes.append("AbortError")

    served.server.add_registered_method_handlers("late", {"x": grpc.stream_stream_rpc_method_handler(outlive)})
    await served.start()
    async with grpc.aio.insecure_channel(served.address) as channel:
        call: Any = channel.stream_stream("/late/x")()
        await entered.wait()
        await served.server.stop(0)
        assert await call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    let_go.set()
    await asyncio.wait(tuple(served.running))
    assert outcomes == ["InternalError", "AbortError"]


async def test_a_killed_client_ends_its_calls() -> None:
    served = Served()
    await served.start()
    for _ in range(2):
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_CLIENT, served.address, stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await client.stdout.readline() == b"ready\n"
            assert len(served.running) == 40
            client.kill()
            await asyncio.wait(tuple(served.running))
            await client.wait()
    # A connection that speaks no HTTP/2 at all is only closed.
    host, _, port = served.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 10)
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()
    assert not served.running
    await served.server.stop(0)


def test_no_wake_up_is_lost_between_idle_and_busy(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test() -> None:
        served = Served()
        await served.start()
        pauses = random.Random(3)
        async with grpc.aio.insecure_channel(served.address) as channel:
            call: Any = channel.unary_unary("/any/one")
            for _ in range(1500):  # The server is idle before each, or just about to be.
                await asyncio.gather(*(call(b"x") for _ in range(pauses.choice((1, 1, 1, 3)))))
                await ticks(pauses.randrange(8))
        await served.server.stop(0)

    run(loop_factory, test)


async def test_other_work_of_the_loop_goes_on_while_calls_pour_in() -> None:
    served = Served()
    await served.start()
    most = last = 0
    over = False

    async def watch() -> None:
        nonlocal most, last
        while not over:
            most, last = max(most, served.answered - last), served.answered
            await asyncio.sleep(0)

    watching = asyncio.ensure_future(watch())
    async with grpc.aio.insecure_channel(served.address) as channel:
        call: Any = channel.unary_unary("/any/one")
        for _ in range(3):
            await asyncio.gather(*(call(b"x") for _ in range(1000)))
    over = True
    await watching
    await served.server.stop(0)
    assert served.answered == 3000
    assert most <= EVENTS_PER_TURN + CALLS_ASKED_FOR


async def test_handlers_may_start_processes_and_threads() -> None:
    served = Served()

    async def work(request: bytes, context: Context) -> bytes:
        def in_a_thread() -> bytes:
            told = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True)
            return told.stdout.strip()

        return await asyncio.to_thread(in_a_thread)

    served.server.add_registered_method_handlers("busy", {"x": grpc.unary_unary_rpc_method_handler(work)})
    await served.start()
    async with asyncio.timeout(PATIENCE_S), grpc.aio.insecure_channel(served.address) as channel:
        call: Any = channel.unary_unary
        answers = [call("/busy/x")(b"x") for _ in range(3)]
        for number in range(100):
            assert await call("/any/one")(b"%d" % number) == b"%d" % number
        assert await asyncio.gather(*answers) == [b"42"] * 3
    await served.server.stop(0)
