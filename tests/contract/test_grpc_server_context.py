"""What handlers see and do through their context, whichever engine serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import grpc
import grpc.aio
import pytest

from serve_core.runtime.engine import Engine
from tests.contract.grpc_rig import PATIENCE_S, Context, Rig, everything, refusal, serving

_variable: ContextVar[str] = ContextVar("_variable", default="untold")


async def test_nothing_is_chosen_until_it_is(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        assert context.code() is None
        assert context.details() == ""
        assert tuple(context.trailing_metadata()) == ()
        assert not context.done()
        assert not context.cancelled()
        return b"right"

    rig.method("one", one)
    assert await rig.one() == b"right"


async def test_each_call_has_variables_of_its_own_and_a_task(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        told = _variable.get()
        _variable.set("told")
        async with asyncio.timeout(PATIENCE_S):
            if request == b"waits":
                await asyncio.sleep(0)
        assert asyncio.current_task() is not None
        assert _variable.get() == "told"
        return told.encode()

    rig.method("one", one)
    for request in (b"x", b"waits", b"x", b"x"):
        assert await rig.one(request=request) == b"untold"


@pytest.mark.parametrize("kind", ["one", "many", "join", "chat"])
async def test_callbacks_hear_of_the_end_in_order(rig: Rig, kind: str) -> None:
    told: list[Any] = []
    over = asyncio.Event()

    async def run(request: Any, context: Context) -> bytes:
        def tell(ended: Any) -> None:
            told.extend((ended is context, ended.done(), ended.cancelled()))

        untyped: Any = context
        untyped.add_done_callback(tell)
        untyped.add_done_callback(lambda _: over.set())
        return b""

    rig.method(kind, run)
    path = f"/test.v1.Any/{kind}"
    match kind:
        case "one":
            await rig.one()
        case "many":
            await everything(rig.many())
        case "join":
            await rig.channel.stream_unary(path)(iter([b"x"]))
        case _:
            await everything(rig.chat())
    await over.wait()
    assert told == [True, True, False]


async def test_a_callback_that_fails_harms_nobody(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        context.add_done_callback(lambda _: 1 / 0)  # type: ignore[arg-type]
        return b"fine"

    rig.method("one", one)
    for _ in range(3):
        assert await rig.one() == b"fine"


async def test_an_aborted_call_takes_nothing_more(rig: Rig) -> None:
    raised: list[type[BaseException]] = []

    async def many(request: bytes, context: Context) -> None:
        with pytest.raises(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.ABORTED, "first", (("tail", "t"),))
        assert context.done()
        assert context.code() is grpc.StatusCode.ABORTED
        for attempt in (
            context.abort(grpc.StatusCode.INTERNAL, "second"),
            context.write(b"x"),
            context.send_initial_metadata(()),
        ):
            try:
                await attempt
            except (grpc.aio.AbortError, grpc.aio.UsageError) as error:
                raised.append(type(error))
        over.set()

    over = asyncio.Event()
    rig.method("many", many)
    error = await refusal(everything(rig.many()))
    await over.wait()
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "first")
    assert tuple(error.trailing_metadata() or ()) == (("tail", "t"),)
    assert raised == [grpc.aio.UsageError, grpc.aio.AbortError, grpc.aio.AbortError]


async def test_headers_go_once_and_compression_comes_before_them(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        await context.send_initial_metadata((("head", "h"),))
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("head", "again"),))
        with pytest.raises(RuntimeError):
            context.set_compression(grpc.Compression.Gzip)
        return b"fine"

    rig.method("one", one)
    assert await rig.one() == b"fine"


async def test_a_code_without_an_answer_is_a_status(rig: Rig) -> None:
    async def one(request: bytes, context: Context) -> Any:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("nothing here")

    rig.method("one", one)
    error = await refusal(rig.one())
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nothing here")


@pytest.mark.parametrize("trailers", [(("UPPER", "x"),), (("number", 5),)])
async def test_trailers_that_cannot_be_sent_fail_the_call(rig: Rig, trailers: Any) -> None:
    async def one(request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata(trailers)
        return b"fine"

    rig.method("one", one)
    error = await refusal(rig.one())
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize("kind", ["one", "many", "chat"])
async def test_an_answer_that_does_not_serialize_fails_the_call(rig: Rig, kind: str) -> None:
    async def answer(request: Any, context: Context) -> Any:
        return "no bytes"

    async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
        yield "no bytes"

    rig.method(kind, answer if kind == "one" else answers)

    def fail(message: Any) -> bytes:
        raise ValueError("cannot serialize")

    make = {
        "one": grpc.unary_unary_rpc_method_handler,
        "many": grpc.unary_stream_rpc_method_handler,
        "chat": grpc.stream_stream_rpc_method_handler,
    }[kind]
    function = answer if kind == "one" else answers
    handlers: Any = {kind: make(function, response_serializer=fail)}
    rig.service.handlers = handlers
    match kind:
        case "one":
            error = await refusal(rig.one())
        case "many":
            error = await refusal(everything(rig.many()))
        case _:
            error = await refusal(everything(rig.chat()))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNKNOWN,
        "Unexpected <class 'ValueError'>: cannot serialize",
    )


async def test_a_request_that_does_not_parse_fails_the_call(rig: Rig) -> None:
    def fail(raw: bytes) -> Any:
        raise ValueError("cannot parse")

    async def one(request: Any, context: Context) -> bytes:
        raise AssertionError

    rig.service.handlers = {"one": grpc.unary_unary_rpc_method_handler(one, request_deserializer=fail)}
    error = await refusal(rig.one())
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNKNOWN,
        "Unexpected <class 'ValueError'>: cannot parse",
    )


async def test_a_reader_that_gave_up_leaves_its_message_to_the_next() -> None:
    async def chat(requests: AsyncIterator[bytes], context: Context) -> None:
        gave_up = asyncio.ensure_future(context.read())
        await asyncio.sleep(0)
        gave_up.cancel()
        await asyncio.wait((gave_up,))
        await context.write(b"go")
        await context.write(b"".join(await asyncio.gather(context.read(), context.read())))
        ending: Any = grpc.aio.EOF
        last: Any = await asyncio.gather(context.read(), context.read())
        assert last == [ending, ending]

    async with serving(Engine.CORE) as rig:  # grpc.aio loses the message, and the call
        rig.method("chat", chat)
        call = rig.chat()
        assert await call.read() == b"go"
        await call.write(b"a")
        await call.write(b"b")
        assert await call.read() == b"ab"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_several_writers_take_turns() -> None:
    async def many(request: bytes, context: Context) -> None:
        gave_up = asyncio.ensure_future(context.write(b"x" * 1_000_000))
        await asyncio.sleep(0)
        gave_up.cancel()
        await asyncio.gather(*(context.write(b"%d" % number) for number in range(5)))

    async with serving(Engine.CORE) as rig:  # grpc.aio never ends the call
        rig.method("many", many)
        large, *small = await everything(rig.many())
        assert len(large) == 1_000_000
        assert sorted(small) == [b"0", b"1", b"2", b"3", b"4"]
