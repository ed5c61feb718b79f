"""What is written to a caller's connection is held back, and leaves at once when it is let go."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc.aio
import pytest

from serve_core.runtime.core import corks as core_corks
from serve_core.runtime.core.corks import Corks
from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import Context, serving

HOSTS = pytest.mark.parametrize(
    ("family", "listens", "calls", "named"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        (socket.AF_INET6, "::1", "::1", "ipv6:%5B::1%5D:{}"),
        (socket.AF_INET6, "::", "127.0.0.1", "ipv4:127.0.0.1:{}"),
    ],
    ids=["ipv4", "ipv6", "ipv4-by-ipv6"],
)
AT_ONCE_S = 30.0


@contextmanager
def connected(family: socket.AddressFamily, listens: str, calls: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the one that was accepted, and the one that called."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket(family))
        if listens == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((listens, 0))
        listening.listen()
        caller = opened.enter_context(socket.create_connection((calls, listening.getsockname()[1]), timeout=AT_ONCE_S))
        accepted = opened.enter_context(listening.accept()[0])
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield accepted, caller


@HOSTS
def test_what_is_written_leaves_when_it_is_let_go(
    family: socket.AddressFamily, listens: str, calls: str, named: str
) -> None:
    with connected(family, listens, calls) as (accepted, caller):
        corks = Corks()
        held = corks.hold(named.format(caller.getsockname()[1]))
        assert held == accepted.fileno()
        accepted.sendall(b"one")
        accepted.sendall(b"two")
        caller.setblocking(False)
        with pytest.raises(BlockingIOError):
            caller.recv(100)
        corks.let_go(held)
        caller.settimeout(AT_ONCE_S)
        assert caller.recv(100) == b"onetwo"
        accepted.sendall(b"three")
        assert caller.recv(100) == b"three"


def test_who_is_unknown_is_looked_for_once_a_second_and_who_has_left_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(core_corks, "monotonic", lambda: now)
    corks = Corks()
    assert corks.hold("ipv4:127.0.0.1:1") is None
    with connected(socket.AF_INET, "127.0.0.1", "127.0.0.1") as (_, caller):
        name = f"ipv4:127.0.0.1:{caller.getsockname()[1]}"
        assert corks.hold(name) is None
        now += core_corks.UNKNOWN_S
        held = corks.hold(name)
        assert held is not None
        corks.let_go(held)
    assert corks.hold(name) is None
    now += core_corks.KNOWN_S
    assert corks.hold(name) is None
    assert name not in corks._descriptors


def test_a_process_with_many_descriptors_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_corks, "DESCRIPTORS_MAX", 2)
    with connected(socket.AF_INET, "127.0.0.1", "127.0.0.1") as (_, caller):
        assert Corks().hold(f"ipv4:127.0.0.1:{caller.getsockname()[1]}") is None


def test_sockets_of_others_stay_as_they_are() -> None:
    with connected(socket.AF_INET, "127.0.0.1", "127.0.0.1") as (accepted, caller):
        caller.settimeout(None)
        assert os.get_blocking(caller.fileno())
        socket.setdefaulttimeout(AT_ONCE_S)  # Python has each object for a socket that is made from now on change it.
        try:
            corks = Corks()
            held = corks.hold(f"ipv4:127.0.0.1:{caller.getsockname()[1]}")
        finally:
            socket.setdefaulttimeout(None)
        assert held == accepted.fileno()
        corks.let_go(held)
        assert os.get_blocking(caller.fileno())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_answers_to_one_caller_that_come_together_leave_together(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, held = 20, list[tuple[str, int | None]]()
    hold = Corks.hold

    def recorded(corks: Corks, peer: str) -> int | None:
        held.append((peer, hold(corks, peer)))
        return held[-1][1]

    monkeypatch.setattr(Corks, "hold", recorded)
    peers: set[str] = set()
    all_here, inside = asyncio.Event(), 0

    async def one(request: bytes, context: Context) -> bytes:
        nonlocal inside
        inside += 1
        peers.add(context.peer())
        if inside == calls:
            all_here.set()
        await all_here.wait()
        return request

    async with serving(
        Engine.CORE,
        listen=lambda server: int(server.add_insecure_port(f"{host}:0")),
        connect=lambda port: grpc.aio.insecure_channel(f"{host}:{port}"),
    ) as rig:
        rig.method("one", one)
        answers = await asyncio.gather(*(rig.one(request=bytes([number])) for number in range(calls)))
    assert answers == [bytes([number]) for number in range(calls)]
    (peer,) = peers
    assert [name for name, descriptor in held if descriptor is not None] == [peer] * len(held)
    assert held
