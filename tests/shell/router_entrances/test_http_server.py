"""The HTTP server: whoever has connected when it stops listening is served."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from router.http_server import HttpServer
from serve_core.runtime import address

WAIT_S = 30.0
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


async def _greet(_: web.Request) -> web.Response:
    return web.Response(text="hello")


def _read(caller: socket.socket) -> bytes:
    with caller.makefile("rb") as file:
        return file.read()


@pytest.mark.parametrize("turns", range(4))
async def test_who_comes_as_it_stops_listening_is_served(turns: int) -> None:
    app = web.Application()
    app.router.add_get("/", _greet)
    with address.listening_socket("127.0.0.1", 0) as listening:
        server = HttpServer(app, listening, is_leaving=lambda: False, cancel_grace_s=WAIT_S)
        await server.start()
        with socket.create_connection(listening.getsockname(), WAIT_S) as caller:
            caller.sendall(REQUEST)
            # In these the event loop sees that somebody comes, accepts the connection, and makes it one of the server's.
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.stop_listening()
            answer = await asyncio.to_thread(_read, caller)
        await server.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"hello")
