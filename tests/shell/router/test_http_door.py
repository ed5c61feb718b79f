"""The HTTP port of a router: open at once, served from the first caller on, and closed without losing one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from router.http_door import HttpDoor
from serve_core.runtime import address
from serve_core.runtime.supervisor import Supervisor

WAIT_S = 60.0


class Greeter:
    """Greets who connects, and closes."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.closed = False

    async def stop_listening(self) -> None:
        self._server.close()

    async def close(self) -> None:
        self._server.close()
        self.closed = True


class Loads:
    """Makes greeters, once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked = asyncio.Event()
        self.made: list[Greeter] = []

    async def __call__(self, listening: socket.socket) -> Greeter:
        self.asked.set()
        await self.may.wait()
        self.made.append(Greeter(await asyncio.start_server(_greet, sock=listening)))
        return self.made[-1]


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    writer.close()


async def greeted(port: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def opened(loads: Loads) -> AsyncIterator[HttpDoor]:
    async with Supervisor("door under test") as tasks:
        with address.listening_socket("127.0.0.1", 0) as listening:
            door = HttpDoor(listening, load=loads, tasks=tasks)
            door.open()
            yield door
            await door.close()


async def test_it_is_loaded_once_for_the_first_caller_who_waits_for_it() -> None:
    loads = Loads()
    async with opened(loads) as door:
        assert not door.loaded
        first, second = (asyncio.ensure_future(greeted(door.port)) for _ in range(2))
        await loads.asked.wait()
        loads.may.set()
        assert (await first, await second) == (b"hello", b"hello")
        assert await greeted(door.port) == b"hello"
        assert len(loads.made) == 1
    assert loads.made[0].closed


async def test_without_a_caller_nothing_is_loaded_and_nobody_is_let_in_any_more() -> None:
    loads = Loads()
    async with opened(loads) as door:
        await door.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await greeted(door.port)
    assert not loads.asked.is_set()


async def test_whoever_has_connected_when_it_stops_listening_is_served() -> None:
    loads = Loads()
    loads.may.set()
    async with opened(loads) as door:
        with socket.create_connection(("127.0.0.1", door.port), WAIT_S) as caller:
            # The loop has had no turn since: nobody has looked.
            assert not door.loaded
            await door.stop_listening()
            assert await asyncio.to_thread(caller.recv, 5) == b"hello"


async def test_it_ends_once_a_server_that_is_being_loaded_is_there() -> None:
    loads = Loads()
    async with opened(loads) as door:
        caller = asyncio.ensure_future(greeted(door.port))
        await loads.asked.wait()
        closing = asyncio.ensure_future(door.close())
        loads.may.set()
        await closing
        assert loads.made[0].closed
        caller.cancel()
        await asyncio.wait((caller,))


async def test_what_cannot_be_loaded_ends_the_router() -> None:
    async def load(_: socket.socket) -> Greeter:
        raise ImportError("no such library")

    with pytest.raises(ImportError, match="no such library"):
        await _knock(load)


async def _knock(load: Callable[[socket.socket], Awaitable[Greeter]]) -> None:
    async with Supervisor("door under test") as tasks:
        with address.listening_socket("127.0.0.1", 0) as listening:
            door = HttpDoor(listening, load=load, tasks=tasks)
            door.open()
            try:
                await greeted(door.port)
            finally:
                await door.close()
