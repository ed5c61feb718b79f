"""What a gRPC server must do, whichever engine serves: our own on grpcio's core must not differ from ``grpc.aio``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.runtime import clock, engine
from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import LIMIT_BYTES, PATIENCE_S, Context, Rig, Service, everything, refusal
from tests.more_time import error_in_time


async def test_all_kinds_of_calls_answer(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        return request * 2

    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield request

    async def join(requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"".join([request async for request in requests])

    async def chat(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    for method in (one, many, join, chat):
        rig.method(method.__name__, method)
    assert await rig.one() == b"xx"
    assert await everything(rig.many()) == [b"x"] * 3
    assert await rig.channel.stream_unary("/test.v1.Any/join")(iter([b"a", b"b"])) == b"ab"
    call = rig.chat()
    for word in (b"a", b"b"):
        await call.write(word)
        assert await call.read() == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_handlers_may_read_and_write_themselves(rig: Rig) -> None:
    async def many(request: bytes, context: Context) -> None:
        await context.write(request)
        await context.write(request)

    async def chat(requests: AsyncIterator[bytes], context: Context) -> None:
        ending: Any = grpc.aio.EOF  # the stubs know nothing of it
        while (request := await context.read()) is not ending:
            await context.write(request)
        assert await context.read() is ending

    rig.method("many", many)
    rig.method("chat", chat)
    assert await everything(rig.many()) == [b"x", b"x"]
    call = rig.chat()
    await call.write(b"y")
    await call.done_writing()
    assert await everything(call) == [b"y"]


async def test_an_empty_message_is_a_message(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        return request

    async def chat(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    rig.method("one", one)
    rig.method("chat", chat)
    assert await rig.one(request=b"") == b""
    call = rig.chat()
    await call.write(b"")
    await call.done_writing()
    assert await everything(call) == [b""]


async def test_metadata_travels_both_ways_as_texts_and_as_bytes(rig: Rig) -> None:
    seen: list[Any] = []

    async def one(request: bytes, context: Context) -> bytes:
        seen.extend(context.invocation_metadata() or ())
        await context.send_initial_metadata((("head", "h"), ("head-bin", b"\x00\xff")))
        context.set_trailing_metadata((("tail", "t"), ("tail-bin", b"\xff\x00")))
        assert tuple(context.trailing_metadata()) == (("tail", "t"), ("tail-bin", b"\xff\x00"))
        return b""

    rig.method("one", one)
    call = rig.channel.unary_unary("/test.v1.Any/one")(b"", metadata=(("text", "a"), ("raw-bin", b"\x01\xfe")))
    assert tuple(await call.initial_metadata()) == (("head", "h"), ("head-bin", b"\x00\xff"))
    assert tuple(await call.trailing_metadata()) == (("tail", "t"), ("tail-bin", b"\xff\x00"))
    assert {("text", "a"), ("raw-bin", b"\x01\xfe")} <= {tuple(pair) for pair in seen}


@pytest.mark.parametrize("kind", ["one", "many"])
async def test_an_abort_is_the_callers_status(rig: Rig, kind: str) -> None:
    async def abort(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: ü", (("why-bin", b"\x00\x01"),))

    rig.method(kind, abort)
    error = await refusal(rig.one() if kind == "one" else everything(rig.many()))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: ü")
    trailers: Any = error.trailing_metadata()
    assert tuple(trailers) == (("why-bin", b"\x00\x01"),)


async def test_an_abort_after_an_answer_ends_the_stream_with_its_status(rig: Rig) -> None:
    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await context.abort(grpc.StatusCode.ABORTED, "enough")

    rig.method("many", many)
    call = rig.many()
    assert await call.read() == b"first"
    assert (await refusal(call.read())).code() is grpc.StatusCode.ABORTED


async def test_a_code_that_was_set_is_the_callers_status(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("gone")
        assert (context.code(), context.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
        return b"answer"

    rig.method("one", one)
    error = await refusal(rig.one())
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


@pytest.mark.parametrize("kind", ["one", "many", "chat"])
async def test_what_a_handler_raises_is_unknown_to_the_caller(rig: Rig, kind: str) -> None:
    async def fail(request: Any, context: Context) -> bytes:
        raise ValueError("my bug")

    rig.method(kind, fail)
    stream = rig.many if kind == "many" else rig.chat
    make = rig.one if kind == "one" else lambda: everything(stream())
    error = await refusal(make())
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert error.details() == "Unexpected <class 'ValueError'>: my bug"


async def test_an_unknown_method_is_unimplemented(rig: Rig) -> None:
    error = await refusal(rig.one("one_unknown"))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_a_handler_knows_the_time_that_it_has(rig: Rig) -> None:
    left: list[float | None] = []

    async def one(request: bytes, context: Context) -> bytes:
        left.append(context.time_remaining())
        return b""

    rig.method("one", one)
    await rig.one()
    await rig.one(timeout=60.0)
    assert left[0] is None
    assert left[1] is not None
    assert 30.0 < left[1] < 61.0


async def test_a_deadline_cancels_the_handler(rig: Rig) -> None:
    rig.method("one", rig.service.wait)
    error = await error_in_time(lambda timeout_s: rig.one(timeout=timeout_s), lambda _: rig.service.entered.is_set())
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await rig.service.cancelled.wait()


@pytest.mark.parametrize("kind", ["one", "many", "join", "chat"])
async def test_a_caller_that_leaves_cancels_the_handler(rig: Rig, kind: str) -> None:
    over = asyncio.Event()

    async def wait(request: Any, context: Any) -> bytes:
        context.add_done_callback(lambda _: over.set())
        return await rig.service.wait(request, context)

    rig.method(kind, wait)
    path = f"/test.v1.Any/{kind}"
    match kind:
        case "one":
            call = rig.channel.unary_unary(path)(b"x")
        case "many":
            call = rig.channel.unary_stream(path)(b"x")
        case "join":
            call = rig.channel.stream_unary(path)()
        case _:
            call = rig.channel.stream_stream(path)()
    await rig.service.entered.wait()
    call.cancel()
    await rig.service.cancelled.wait()
    await over.wait()


async def test_a_slow_reader_holds_the_writer_back(rig: Rig) -> None:
    sent = 0
    chunk, count = b"z" * 60_000, 1000

    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(count):
            sent += 1
            yield chunk

    async def one(request: bytes, context: Context) -> bytes:
        return b""

    rig.method("many", many)
    rig.method("one", one)
    answers = aiter(rig.many())
    assert await anext(answers) == chunk
    for _ in range(50):
        await rig.one()  # Other calls go on meanwhile.
    assert sent < count / 2
    rest = [answer async for answer in answers]
    assert len(rest) == count - 1


async def test_messages_above_the_limit_are_refused(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        return request

    rig.method("one", one)
    error = await refusal(rig.one(request=b"x" * (LIMIT_BYTES + 1)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await rig.one(request=b"x" * (LIMIT_BYTES - 100))


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls_are_answered_compressed(rig: Rig, compression: grpc.Compression) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        context.set_compression(compression)
        await context.send_initial_metadata(())
        return request

    rig.method("one", one)
    assert await rig.one(request=b"a" * 10_000, compression=compression) == b"a" * 10_000


async def test_a_stream_may_leave_single_messages_uncompressed(rig: Rig) -> None:
    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata(())
        context.disable_next_message_compression()
        yield b"a" * 1000
        yield b"b" * 1000

    rig.method("many", many)
    assert await everything(rig.many()) == [b"a" * 1000, b"b" * 1000]


async def test_the_caller_is_known_by_its_address(rig: Rig) -> None:
    peers: list[str] = []

    async def one(request: bytes, context: Context) -> bytes:
        peers.append(context.peer())
        assert context.peer_identity_key() is None
        assert context.peer_identities() is None
        return b""

    rig.method("one", one)
    await rig.one()
    assert peers[0].startswith(("ipv4:127.0.0.1:", "unix:"))


async def test_stopping_finishes_what_runs_and_refuses_what_is_new(rig: Rig) -> None:
    rig.method("one", rig.service.wait)
    inside = asyncio.ensure_future(rig.one())
    await rig.service.entered.wait()
    stopping = asyncio.ensure_future(rig.server.stop(PATIENCE_S))
    error = await refusal(rig.one())
    # Which of the two depends on whether the caller's connection had heard of the stop.
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not stopping.done()
    assert len(rig.running) == 1
    rig.service.let_go.set()
    assert await inside == b"done"
    await stopping
    while rig.running:  # grpc.aio ends the calls before their tasks.
        await asyncio.wait(rig.running)


async def test_stopping_cancels_what_runs_on_after_the_grace(rig: Rig) -> None:
    rig.method("one", rig.service.wait)
    inside = asyncio.ensure_future(rig.one())
    await rig.service.entered.wait()
    began = clock.monotonic()
    await rig.server.stop(0.05)
    await rig.service.cancelled.wait()
    assert clock.monotonic() - began < PATIENCE_S
    assert (await refusal(inside)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_many_calls_at_once_are_each_answered_with_their_own(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        await asyncio.sleep(0)
        return request

    rig.method("one", one)
    wanted = [b"%d" % number for number in range(500)]
    assert await asyncio.gather(*(rig.one(request=request) for request in wanted)) == wanted
    assert not rig.running


async def test_interceptors_see_every_call_and_may_answer_it() -> None:
    for one_engine in Engine:
        engine.choose({engine.VARIABLE: one_engine})
        seen: list[str] = []
        server = engine.new_server((_Watch(seen), _Answer()), [("grpc.so_reuseport", 0)], set())
        service = Service()
        service.methods["one"] = service.wait
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with asyncio.timeout(PATIENCE_S), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary
            assert await call("/test.v1.Any/one_answered")(b"x") == b"intercepted"
            error = await refusal(call("/test.v1.Any/one_unknown")(b"x"))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            service.let_go.set()
            assert await call("/test.v1.Any/one")(b"x") == b"done"
        await server.stop(0)
        engine.choose({})
        assert seen == ["/test.v1.Any/one_answered", "/test.v1.Any/one_unknown", "/test.v1.Any/one"]


class _Watch(grpc.aio.ServerInterceptor):
    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self._seen.append(handler_call_details.method)
        return await continuation(handler_call_details)


class _Answer(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: Context) -> bytes:
            return b"intercepted"

        if handler_call_details.method.endswith("answered"):
            return grpc.unary_unary_rpc_method_handler(answer)
        return await continuation(handler_call_details)
