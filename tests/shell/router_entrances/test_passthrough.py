"""Calls of all four kinds pass through a real router entrance to real user services, as bytes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from serve_core.errors import MessageTooLargeError
from serve_core.wire.errors import decode_error
from tests.more_time import error_in_time
from tests.shell.router_entrances.harness import KEY, LIMIT, Entrance
from tests.shell.router_entrances.user_service import Wire

pytestmark = pytest.mark.usefixtures("way")


async def items(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_one_request_one_answer(served: Entrance) -> None:
    assert await served.unary(b"\x00\xffhello") == b"\x00\xffhello"


async def test_an_empty_message_is_a_message(served: Entrance) -> None:
    assert await served.unary(b"") == b""


async def test_one_request_a_stream_of_answers(served: Entrance) -> None:
    assert [message async for message in served.count(b"3,1")] == [b"0:x", b"1:x", b"2:x"]
    assert [message async for message in served.count(b"0,1")] == []


async def test_a_stream_of_requests_one_answer(served: Entrance) -> None:
    assert await served.join(items(b"a", b"b", b"c")) == b"a|b|c"
    assert await served.join(items()) == b""


async def test_streams_both_ways_are_interleaved(served: Entrance) -> None:
    call = served.chat()
    for message in (b"one", b"two"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_requests_metadata_reaches_the_replica(served: Entrance) -> None:
    pairs = (("a", "1"), ("b-bin", b"\x00\xff"), ("a", "2"), ("x-request-id", "mine"), ("serve-core-app", "shop"))
    await served.unary(b"", metadata=pairs)
    (seen,) = served.echo.metadata
    own = [pair for pair in seen if pair[0] in ("a", "b-bin", "x-request-id")]
    assert sorted(own, key=lambda pair: pair[0]) == [
        ("a", "1"),
        ("a", "2"),
        ("b-bin", b"\x00\xff"),
        ("x-request-id", "mine"),
    ]
    names = dict(seen)
    assert names["serve-core-owner"].startswith("router-1")
    assert "serve-core-slots" not in names  # 1, as for everybody who does not say
    assert "serve-core-app" not in names
    assert "serve-core-slot" not in names


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
async def test_answers_metadata_reaches_the_caller(served: Entrance, kind: str) -> None:
    call = start(served, kind, metadata=(("act", "initial"),))
    await finish(call, kind)
    assert tuple(await call.initial_metadata()) == (("first", "1"), ("first-bin", b"\x00"))
    trailers = tuple(await call.trailing_metadata())
    assert [pair for pair in trailers if pair[0] in ("seen", "data-bin", "serve-core-replica")] == [
        ("serve-core-replica", "r1"),
        ("seen", "yes"),
        ("seen", "twice"),
        ("data-bin", b"\x00\xff"),
    ]
    assert ("x-request-id", "minted-1") in trailers


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
@pytest.mark.parametrize("act", ["fail", "fail-after-initial"])
async def test_a_replicas_status_passes_unchanged(served: Entrance, kind: str, act: str) -> None:
    call = start(served, kind, metadata=(("act", act),))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await finish(call, kind)
    error = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.ALREADY_EXISTS, "mine: é")
    trailers = error.trailing_metadata()
    assert trailers is not None
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    assert Status.FromString(details).message == "mine"
    assert trailers.get_all("own") == ["a", "b"]
    assert (error.initial_metadata() or {}).get("first") == ("1" if act == "fail-after-initial" else None)


async def test_a_failure_after_answers_passes_after_them(served: Entrance) -> None:
    call = served.count(b"2,0", metadata=(("act", "fail-late"),))
    assert await call.read() == b"0:"
    assert await call.read() == b"1:"
    with pytest.raises(grpc.aio.AioRpcError, match="mine"):
        await call.read()


async def test_a_replica_may_itself_answer_cancelled(served: Entrance) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.unary(b"", metadata=(("act", "cancel"),))
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.CANCELLED, "changed my mind")


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
async def test_the_deadline_reaches_the_replica(served: Entrance, kind: str) -> None:
    await finish(start(served, kind, timeout=30), kind)
    await finish(start(served, kind), kind)
    with_deadline, without = served.echo.remaining_s
    assert with_deadline is not None
    assert 20 < with_deadline < 31  # grpc-timeout is rounded up on each hop
    assert without is None


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
async def test_a_deadline_that_ends_cancels_the_replica(served: Entrance, kind: str) -> None:
    error = await error_in_time(
        lambda timeout_s: finish(start(served, kind, timeout=timeout_s, metadata=(("act", "hang"),)), kind),
        lambda _: served.echo.entered.is_set(),
    )
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await served.echo.cancelled.wait()


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
async def test_a_caller_that_cancels_cancels_the_replica(served: Entrance, kind: str) -> None:
    call = start(served, kind, metadata=(("act", "hang"),))
    await served.echo.entered.wait()
    call.cancel()
    await served.echo.cancelled.wait()
    assert await served.gate.drained(30)
    labels = {"grpc_method": f"/test.v1.Echo/{kind.capitalize()}", "grpc_status": "CANCELLED"}
    assert served.sample("grpc_server_call_duration_seconds_count", **labels) == 1


async def test_nothing_is_left_of_unary_calls_that_end_in_every_way_at_once(served: Entrance) -> None:
    async def ends(number: int) -> grpc.StatusCode:
        act = ("", "fail", "cancel", "hang")[number % 4]
        call = served.unary(b"%d" % number, metadata=(("act", act),), timeout=0.5 if number % 8 == 3 else 60)
        if number % 8 == 7:
            await served.echo.entered.wait()
            call.cancel()
        return await call.code()

    codes = await asyncio.gather(*(ends(number) for number in range(64)))
    assert set(codes) == {
        grpc.StatusCode.OK,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
    assert await served.gate.drained(30)
    assert [ongoing for _, ongoing in served.router.ongoing()] == [0]
    lane = served.router._admissions[KEY].lane
    assert [(replica.own, len(lane.queue)) for replica in lane.replicas] == [(0, 0)]
    assert await served.unary(b"still there") == b"still there"


@pytest.mark.parametrize("kind", ["count", "chat"])
async def test_initial_metadata_comes_before_the_first_answer(served: Entrance, kind: str) -> None:
    call = start(served, kind, metadata=(("act", "initial-then-wait"),))
    assert (await call.initial_metadata())["first"] == "1"
    served.echo.go_on.set()
    await finish(call, kind)


async def test_a_message_of_the_configured_size_passes_both_ways(served: Entrance) -> None:
    message = b"x" * LIMIT
    assert await served.unary(message) == message
    assert await served.join(items(message)) == message


@pytest.mark.parametrize("kind", ["unary", "count", "join", "chat"])
@pytest.mark.parametrize("direction", ["request", "response"])
async def test_a_larger_message_is_refused_with_a_reason(served: Entrance, kind: str, direction: str) -> None:
    large = b"x" * (LIMIT + 1)
    served.echo.answer = lambda _: large
    if direction == "request":
        call = start(served, kind, request=large)
    elif kind == "join":
        call = start(served, kind, messages=(b"x" * LIMIT, b""))
    else:
        call = start(served, kind, request=b"1,%d" % LIMIT)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await finish(call, kind)
    error = decode_error(raised.value)
    assert isinstance(error, MessageTooLargeError)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in error.message


async def test_a_message_beyond_grpcs_own_limit_is_refused_too(served: Entrance) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.unary(b"x" * (2 * LIMIT + 1))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    served.echo.answer = lambda _: b"x" * (2 * LIMIT + 1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.unary(b"")
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_caller_that_does_not_read_holds_the_replica_back(served: Entrance) -> None:
    call = served.count(b"400,100000")
    assert len(await first_message(call)) > 100000
    before = -1
    while served.echo.sent != before:
        before = served.echo.sent
        await served.unary(b"still served")
        for _ in range(50):
            await asyncio.sleep(0)
    assert served.echo.sent < 150
    total = 1
    while await call.read() is not grpc.aio.EOF:
        total += 1
    assert total == 400


async def test_a_replica_that_does_not_read_holds_the_caller_back(served: Entrance) -> None:
    written = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield b"x" * 100_000
            written += 1

    call = served.chat(endless(), metadata=(("act", "hang"),))
    await served.echo.entered.wait()
    before = -1
    while written != before:
        before = written
        await served.unary(b"still served")
        for _ in range(50):
            await asyncio.sleep(0)
    # What two connections buffer: gRPC's windows, which it widens by what it measures, and the system's own.
    assert written < 500
    call.cancel()
    await served.echo.cancelled.wait()


async def test_an_end_of_answers_ends_the_call_though_requests_go_on(served: Entrance) -> None:
    call = served.chat(metadata=(("act", "fail"),))
    with pytest.raises(grpc.aio.AioRpcError, match="mine"):
        await call.read()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls_pass(served: Entrance, compression: grpc.Compression) -> None:
    message = b"a" * 100_000
    assert await served.unary(message, compression=compression, metadata=(("act", "gzip"),)) == message


async def test_what_a_replica_compresses_stays_so_on_its_hop(served: Entrance, way: str) -> None:
    message = b"a" * 500_000
    wire = served.replicas[0].wire
    before = wire.received
    assert await served.unary(message, metadata=(("act", "gzip"),)) == message
    # A link compresses nothing.
    assert (wire.received - before < 50_000) is (way == "calls")


@pytest.mark.parametrize("asked", [None, "identity", "gzip", "deflate"])
async def test_the_caller_may_say_how_both_hops_compress(served: Entrance, asked: str | None) -> None:
    message = b"a" * 500_000
    second = served.replicas[0].wire
    first = Wire(served.address)
    await first.start()
    before = second.sent
    metadata = (("serve-core-compression", asked),) if asked else ()
    async with grpc.aio.insecure_channel(first.address) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.v1.Echo/Unary")
        assert await method(message, metadata=metadata) == message
    small = asked in ("gzip", "deflate")
    assert (second.sent - before < 50_000) == small
    assert (first.received < 50_000) == small
    await first.close()


def start(
    served: Entrance, kind: str, *, request: bytes = b"1,0", messages: tuple[bytes, ...] | None = None, **options: Any
) -> Any:
    match kind:
        case "unary":
            return served.unary(request, **options)
        case "count":
            return served.count(request, **options)
        case "join":
            return served.join(items(*(messages or (request,))), **options)
        case _:
            return served.chat(items(request), **options)


async def finish(call: Any, kind: str) -> None:
    if kind in ("unary", "join"):
        await call
    else:
        async for _ in call:
            pass


async def first_message(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> bytes:
    message = await call.read()
    assert isinstance(message, bytes)
    return message
