"""Links in a Unix domain socket: who may open one, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.link import unix
from serve_core.link.batches import FORMAT, Reading, written
from serve_core.link.core.limits import ATTACHED_BYTES, CHUNK_BYTES, WINDOW_BYTES
from serve_core.link.frames import PING, PONG, Frame
from tests.shell.link.pipes import Linked
from tests.shell.link.test_link import Waiting, echo, failure, waiting


@asynccontextmanager
async def listening(**methods: Any) -> AsyncIterator[tuple[Linked, unix.UnixListener]]:
    pair = Linked(**methods)
    listener = unix.UnixListener(pair.service)
    await listener.start()
    async with asyncio.timeout(60):
        yield pair, listener
    await listener.close()


async def opened(pair: Linked, listener: unix.UnixListener) -> None:
    """The pair's link goes by the socket from here on."""
    pair.cut()
    assert await unix.connect(listener.path, listener.secret, pair.link)


async def raw(listener: unix.UnixListener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(listener.path)


async def closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1024):
            pass
    except ConnectionResetError:
        return


async def test_calls_go_both_ways() -> None:
    async with listening(one=echo) as (pair, listener):
        await opened(pair, listener)
        assert await pair.one() == b"x"
        large = b"y" * 3_000_000
        assert await pair.one(request=large) == large
        pair.link.close()


async def test_a_large_message_is_held_once_at_each_end() -> None:
    size = 4_000_000

    async def length(request: bytes, context: Any) -> bytes:
        return str(len(request)).encode()

    async with listening(one=length) as (pair, listener):
        await opened(pair, listener)
        request = b"y" * size
        assert await pair.one(request=request) == b"4000000"
        tracemalloc.start()
        try:
            assert await pair.one(request=request) == b"4000000"
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        pair.link.close()
    # As it arrives; and what is on its way: the loop of these tests joins what it writes.
    assert peak < size + 2 * WINDOW_BYTES


async def test_messages_of_all_sizes_keep_their_order() -> None:
    sizes = (0, 1, ATTACHED_BYTES - 1, ATTACHED_BYTES, CHUNK_BYTES, CHUNK_BYTES + 1, WINDOW_BYTES, 3 * WINDOW_BYTES + 7)
    messages = [bytes([number]) * size for number, size in enumerate(sizes * 3)]

    async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with listening(many=many) as (pair, listener):
        await opened(pair, listener)

        async def read() -> list[bytes]:
            return [message async for message in pair.many()]

        assert await asyncio.gather(*(read() for _ in range(4))) == [messages] * 4
        pair.link.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, 5, True, 99, -1, 1 << 40, "text", 5.5])
@pytest.mark.parametrize("details", ["why", "", b"why", "\udc80", 5])
async def test_a_handler_ends_its_call_and_not_the_link_whatever_it_says(code: Any, details: Any) -> None:
    async def one(request: bytes, context: Any) -> bytes:
        context.set_code(code)
        context.set_details(details)
        return request

    async with listening(one=one, one_more=echo) as (pair, listener):
        await opened(pair, listener)
        ended = await failure(pair.one())
        assert ended.code() is not grpc.StatusCode.OK
        assert (ended.details() == "why") is (details in ("why", b"why") and code not in (-1, 1 << 40))
        assert await pair.one("one_more") == b"x"
        pair.link.close()


@pytest.mark.parametrize("response", ["text", 5, bytearray(b"bytes"), None])
async def test_a_response_that_is_no_bytes_fails_its_call_alone(response: Any) -> None:
    async def one(request: bytes, context: Any) -> Any:
        return response

    async def many(request: bytes, context: Any) -> AsyncIterator[Any]:
        yield response

    async with listening(one=one, many=many, one_more=echo) as (pair, listener):
        await opened(pair, listener)
        assert (await failure(pair.one())).code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
        with pytest.raises(grpc.aio.AioRpcError):
            _ = [item async for item in pair.many()]
        assert await pair.one("one_more") == b"x"
        pair.link.close()


async def test_its_folder_is_its_users_alone_and_goes_with_it() -> None:
    async with listening() as (_, listener):
        folder = Path(listener.path).parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert not listener.path


async def test_nothing_is_served_without_the_secret() -> None:
    async with listening(one=echo) as (pair, listener):
        before = pair.service.count
        reader, writer = await raw(listener)
        writer.write(b"0" * 32)
        await closed(reader)
        assert pair.service.count == before
        writer.close()
        assert not await unix.connect(listener.path, "f" * 32, pair.link)


async def test_who_has_not_told_the_secret_is_cut_off_when_it_closes() -> None:
    async with listening(one=echo) as (pair, listener):
        await opened(pair, listener)
        reader, writer = await raw(listener)
        writer.write(listener.secret[:5].encode())
        for _ in range(3):
            assert await pair.one() == b"x"
        assert len(listener._strangers) == 1
        await listener.close()
        await closed(reader)
        assert not listener._strangers
        assert await pair.one() == b"x"
        pair.link.close()
        writer.close()


@pytest.mark.parametrize("turns", range(4))
async def test_who_comes_as_it_closes_is_cut_off(turns: int) -> None:
    """What is not closed is a ResourceWarning, which is an error here."""
    async with listening() as (_, listener):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(listener.path)
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.close()
            caller.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(caller.recv, 1) == b""
    gc.collect()


async def test_a_secret_may_come_in_parts() -> None:
    async with listening(one=echo) as (_, listener):
        reader, writer = await raw(listener)
        (ping,) = written([Frame(PING)], ())
        greeting = listener.secret.encode() + FORMAT
        for part in (greeting[:5], greeting[5:33], greeting[33:], ping[:3], ping[3:]):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        head = await reader.readexactly(8)
        (length, _) = struct.unpack("<II", head)
        pong = head + await reader.readexactly(length)
        assert [frame.step for batch in Reading().batches(memoryview(pong)) for frame in batch] == [PONG]
        writer.close()


async def test_who_writes_another_form_is_cut_off_unserved() -> None:
    """The form before this one had a length in the place of the name."""
    async with listening(one=echo) as (pair, listener):
        before = pair.service.count
        reader, writer = await raw(listener)
        writer.write(listener.secret.encode() + struct.pack("<I", 4) + b"\x0a\x02\x10\x08")
        await closed(reader)
        assert pair.service.count == before
        writer.close()


async def test_a_replica_that_reads_another_form_has_no_socket(tmp_path: Path) -> None:
    """One of the form before this one takes the name for a length that nothing may have, and closes."""
    greetings: list[bytes] = []

    async def greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.readexactly(36))
        writer.close()

    pair = Linked()
    pair.cut()
    async with await asyncio.start_unix_server(greeted, tmp_path / "socket"):
        assert not await unix.connect(str(tmp_path / "socket"), "5" * 32, pair.link)
    assert greetings == [b"5" * 32 + FORMAT]
    assert not pair.link.open


@pytest.mark.parametrize("sent", [struct.pack("<II", 2**31, 0), struct.pack("<II", 3, 0) + b"\xff\xff\xff"])
async def test_what_is_no_batch_ends_the_link(sent: bytes) -> None:
    async with listening(one=echo) as (_, listener):
        reader, writer = await raw(listener)
        writer.write(listener.secret.encode() + FORMAT + sent)
        await closed(reader)
        writer.close()


async def test_a_link_that_is_lost_cancels_what_runs() -> None:
    inside = Waiting()
    async with listening(one=waiting(inside)) as (pair, listener):
        await opened(pair, listener)
        call = pair.one()
        while not inside.inside:
            await pair.link.unary_unary("/test/one_none")(b"").code()
        pair.link.close()
        assert (await failure(call)).code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait(tuple(pair.running))
        assert inside.cancelled == 1


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "KEEPALIVE_TIME_S", 0.01)
    monkeypatch.setattr(unix, "KEEPALIVE_TIMEOUT_S", 0.01)


async def mute(pair: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica hears, and says nothing any more."""
    assert await pair.one() == b"x"
    for link in tuple(pair.service._links):
        monkeypatch.setattr(link.end, "say", lambda *_, **__: None)
        monkeypatch.setattr(link, "_opened", lambda *_: None)


@pytest.mark.usefixtures("_impatient")
async def test_a_replica_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(one=echo) as (pair, listener):
        await opened(pair, listener)
        await mute(pair, monkeypatch)
        pair.is_there = False
        assert (await failure(pair.one())).code() is grpc.StatusCode.UNAVAILABLE
        assert not pair.link.open


@pytest.mark.usefixtures("_impatient")
async def test_a_replica_whose_event_loop_is_held_up_keeps_what_runs_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(one=echo) as (pair, listener):
        await opened(pair, listener)
        await mute(pair, monkeypatch)
        assert (await failure(pair.one(timeout=0.2))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert pair.link.open
        pair.link.close()


async def test_a_socket_that_is_not_here_is_no_link(tmp_path: Path) -> None:
    pair = Linked()
    pair.cut()
    assert not await unix.connect(str(tmp_path / "nobody"), "0" * 32, pair.link)
    assert not pair.link.open


async def test_what_killed_replicas_left_is_swept_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, young = tmp_path / "serve-core-link-dead", tmp_path / "serve-core-link-young"
    for folder in (dead, young):
        folder.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead / "socket"))
    async with listening() as (_, living), listening() as (_, other):
        assert not dead.exists()
        assert {Path(one.path).parent.name for one in (living, other)} | {young.name} == set(os.listdir(tmp_path))


async def test_a_host_without_such_sockets_goes_on_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 120)))
    (tmp_path / ("x" * 120)).mkdir()
    async with listening() as (_, listener):
        assert not listener.path


@pytest.mark.parametrize("turns", range(3))
async def test_a_listener_that_is_cancelled_as_it_starts_leaves_nothing(turns: int) -> None:
    """What is not closed is a ResourceWarning, which is an error here."""
    listener = unix.UnixListener(Linked(one=echo).service)
    starting = asyncio.ensure_future(listener.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    folder = listener._folder
    await listener.close()
    assert folder is None or not folder.exists()
    gc.collect()
