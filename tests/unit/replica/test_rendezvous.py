"""The port that is kept free for a gang: its own servers may listen there, and nobody else is given it."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import struct
from collections.abc import Iterator

import pytest

from replica.rendezvous import ReservedPort

IP_LOCAL_PORT_RANGE = 51
HOSTS = ["127.0.0.1", "0.0.0.0", ""]


@pytest.fixture
def port() -> Iterator[int]:
    reserved = ReservedPort()
    yield reserved.number
    reserved.close()


async def answers(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("host", HOSTS)
async def test_asyncio_can_serve_there(host: str, port: int) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    for _ in range(2):  # also again, after one that has ended
        server = await asyncio.start_server(greet, host or None, port)
        async with server:
            assert await answers("127.0.0.1", port) == b"hello"
            server.close()


async def test_socketserver_can_serve_there_when_it_reuses_addresses(port: int) -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"hello")

    class Server(socketserver.TCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), Handler) as server:
        serving = asyncio.get_running_loop().run_in_executor(None, server.handle_request)
        assert await answers("127.0.0.1", port) == b"hello"
        await serving


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")])
def test_a_listener_as_torch_opens_its_store_can_listen_there(family: int, host: str, port: int) -> None:
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        return
    with socket.socket(family, socket.SOCK_STREAM) as store:  # SO_REUSEADDR, every address, IPv4 mapped into IPv6
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            store.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        store.bind((host, port))
        store.listen(2048)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            server_side, _ = store.accept()
            with server_side:
                server_side.sendall(b"x")
                assert client.recv(1) == b"x"


def test_two_reservations_never_get_the_same_port() -> None:
    reserved = [ReservedPort() for _ in range(200)]
    try:
        assert len({one.number for one in reserved}) == 200
    finally:
        for one in reserved:
            one.close()


def test_who_does_not_know_of_it_cannot_take_it(port: int) -> None:
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))


@pytest.mark.parametrize("reuse", [0, 1])
def test_who_lets_the_system_choose_is_not_given_it(port: int, reuse: int) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            stranger.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
        except OSError:  # a Linux before 6.3 lets nobody say between which ports it is to choose
            return
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", 0))
