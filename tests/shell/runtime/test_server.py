"""The server over real gRPC: bad requests, errors, taken ports, and stopping."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.errors import ConfigInvalidError, NoSlotError, PortTakenError
from serve_core.runtime.channel import channel_options, open_channel, wait_ready
from serve_core.runtime.server import Server

Request: TypeAlias = health_pb2.HealthCheckRequest
Response: TypeAlias = health_pb2.HealthCheckResponse
Channel: TypeAlias = Any  # without serializers, its calls take and give bytes, which the stubs do not know
BURST = """
import asyncio, sys
import grpc.aio

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        one = channel.unary_unary("/t.Kinds/One")
        await one(b"")
        print("ready", flush=True)
        sys.stdin.readline()
        calls = [one(b"") for _ in range(4000)]
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        print("sent", flush=True)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        print(sum(isinstance(one, Exception) for one in outcomes))

asyncio.run(main())
"""
GARBAGE = b"\xff\xff\xff\xff"


class AllKinds:
    """A method of each kind. A request's ``service`` says what to do."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.stubborn = False

    async def one(self, request: Request, context: grpc.aio.ServicerContext[Any, Any]) -> Response:
        if request.service == "refuse":
            raise NoSlotError("no slot is free here")
        if request.service == "wait":
            await self._wait()
        return Response(status=1)

    async def many(self, request: Request, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Response]:
        yield await self.one(request, context)
        if request.service == "refuse later":
            raise NoSlotError("no slot is free here")
        yield Response(status=2)

    async def gather(self, requests: AsyncIterator[Request], context: grpc.aio.ServicerContext[Any, Any]) -> Response:
        return Response(status=len([request async for request in requests]))

    async def chat(
        self, requests: AsyncIterator[Request], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Response]:
        async for _ in requests:
            yield Response(status=1)

    async def write(self, request: Request, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.write(Response(status=3))

    async def _wait(self) -> None:
        self.entered.set()
        while True:
            try:
                await self.let_go.wait()
                return
            except asyncio.CancelledError:
                self.cancelled.set()
                if not self.stubborn:
                    raise


def add_all_kinds(servicer: AllKinds, server: Any) -> None:
    codec: Any = {
        "request_deserializer": Request.FromString,
        "response_serializer": Response.SerializeToString,
    }
    methods = {
        "One": grpc.unary_unary_rpc_method_handler(servicer.one, **codec),
        "Many": grpc.unary_stream_rpc_method_handler(servicer.many, **codec),
        "Write": grpc.unary_stream_rpc_method_handler(servicer.write, **codec),
        "Gather": grpc.stream_unary_rpc_method_handler(servicer.gather, **codec),
        "Chat": grpc.stream_stream_rpc_method_handler(servicer.chat, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Kinds", methods),))
    server.add_registered_method_handlers("t.Kinds", methods)


def add_without_registering(servicer: AllKinds, server: Any) -> None:
    """As generated code did before grpcio 1.67."""

    class Generic:
        add_generic_rpc_handlers = staticmethod(server.add_generic_rpc_handlers)

        @staticmethod
        def add_registered_method_handlers(*_: object) -> None: ...

    add_all_kinds(servicer, Generic)


@pytest.fixture
def kinds() -> AllKinds:
    return AllKinds()


@pytest.fixture
def server(kinds: AllKinds) -> Server:
    made = Server("127.0.0.1", 0)
    made.add(add_all_kinds, kinds)
    return made


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[Channel]:
    async with open_channel(await server.start()) as made:
        yield made
    await server.stop(0)


def raw(method: str) -> str:
    return f"/t.Kinds/{method}"


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        if isinstance(call, grpc.aio.UnaryUnaryCall | grpc.aio.StreamUnaryCall):
            await call
        else:
            async for _ in call:
                pass
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), await call.details()


async def test_all_kinds_work_through_the_guard(channel: Channel, server: Server) -> None:
    empty = Request().SerializeToString()

    one = await channel.unary_unary(raw("One"))(empty)
    many = [message async for message in channel.unary_stream(raw("Many"))(empty)]
    written = [message async for message in channel.unary_stream(raw("Write"))(empty)]
    gathered = await channel.stream_unary(raw("Gather"))(iter([empty, empty]))
    chatted = [message async for message in channel.stream_stream(raw("Chat"))(iter([empty, empty]))]

    parsed = [Response.FromString(message).status for message in (one, *many, *written, gathered, *chatted)]
    assert parsed == [1, 1, 2, 3, 2, 1, 1]
    assert server.services == ("t.Kinds",)


@pytest.mark.parametrize("method", ["One", "Many", "Write"])
async def test_a_request_that_does_not_parse_is_an_invalid_argument(channel: Channel, method: str) -> None:
    make = channel.unary_unary if method == "One" else channel.unary_stream

    code, details = await code_of(make(raw(method))(GARBAGE))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "4 bytes do not parse as grpc.health.v1.HealthCheckRequest" in details
    assert "\n" not in details


async def test_a_burst_that_comes_while_the_loop_is_held_up_is_answered(server: Server) -> None:
    """The caller is a process of its own: it sends while this one's loop stands still."""
    caller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BURST, await server.start()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert caller.stdin is not None
    assert caller.stdout is not None
    descriptor = caller.stdout._transport.get_extra_info("pipe").fileno()  # type: ignore[attr-defined]
    await caller.stdout.readline()
    caller.stdin.write(b"go\n")
    await caller.stdin.drain()
    assert select.select((descriptor,), (), (), 30.0)[0], "it did not send"  # holds the loop up
    told, _ = await caller.communicate()
    assert told.split() == [b"sent", b"0"]
    await server.stop(0)


@pytest.mark.parametrize("method", ["Gather", "Chat"])
async def test_so_is_one_in_a_stream(channel: Channel, method: str) -> None:
    make = channel.stream_unary if method == "Gather" else channel.stream_stream

    code, details = await code_of(make(raw(method))(iter([b"", GARBAGE])))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "do not parse" in details


async def test_it_is_so_for_handlers_of_older_generated_code_too(kinds: AllKinds) -> None:
    server = Server("127.0.0.1", 0)
    server.add(add_without_registering, kinds)
    assert server.services == ("t.Kinds",)
    async with open_channel(await server.start()) as opened:
        channel: Channel = opened
        code, _ = await code_of(channel.unary_unary(raw("One"))(GARBAGE))
        unknown, _ = await code_of(channel.unary_unary(raw("Absent"))(b""))
    await server.stop(0)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert unknown is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(("method", "service"), [("One", "refuse"), ("Many", "refuse"), ("Many", "refuse later")])
async def test_an_error_of_ours_is_answered_as_what_it_is(channel: Channel, method: str, service: str) -> None:
    make = channel.unary_unary if method == "One" else channel.unary_stream

    answer = await code_of(make(raw(method))(Request(service=service).SerializeToString()))

    assert answer == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no slot is free here")


async def test_a_handler_that_is_not_asynchronous_is_refused() -> None:
    class Blocking(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        def Check(self, request: Any, context: Any) -> Response:
            return Response()

    with pytest.raises(TypeError, match=r"Blocking\.Check must be an async function"):
        Server("127.0.0.1", 0).add(health_pb2_grpc.add_HealthServicer_to_server, Blocking())


async def test_generic_handlers_get_what_nobody_else_takes(kinds: AllKinds) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    class Anything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return grpc.unary_unary_rpc_method_handler(echo)

    server = Server("127.0.0.1", 0)
    server.add_generic_handlers([Anything()])
    server.add(add_all_kinds, kinds)
    async with open_channel(await server.start()) as opened:
        channel: Channel = opened
        assert await channel.unary_unary("/any.Service/Method")(b"as it is") == b"as it is"
        assert Response.FromString(await channel.unary_unary(raw("One"))(b"")).status == 1
    await server.stop(0)


async def test_messages_up_to_twice_the_configured_size_pass_and_larger_ones_do_not(kinds: AllKinds) -> None:
    server = Server("127.0.0.1", 0, max_message_bytes=1000)
    server.add(add_all_kinds, kinds)
    async with open_channel(await server.start()) as opened:
        channel: Channel = opened
        fits, _ = await code_of(channel.unary_unary(raw("One"))(Request(service="x" * 1900).SerializeToString()))
        too_large, _ = await code_of(channel.unary_unary(raw("One"))(Request(service="x" * 2100).SerializeToString()))
    await server.stop(0)

    assert (fits, too_large) == (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("reuse_port", [False, True])
async def test_a_taken_port_is_said_so(reuse_port: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port} is taken by another process") as caught:
            await Server("127.0.0.1", port, reuse_port=reuse_port).start()

    assert caught.value.details == {"address": f"127.0.0.1:{port}"}


async def test_a_port_that_another_server_of_ours_holds_is_taken_even_if_that_one_shares() -> None:
    first = Server("127.0.0.1", 0, reuse_port=True)
    address = await first.start()
    port = int(address.rpartition(":")[2])

    with pytest.raises(PortTakenError):
        await Server("127.0.0.1", port).start()
    second = Server("127.0.0.1", port, reuse_port=True)
    assert await second.start() == address
    await first.stop(0)
    await second.stop(0)


async def test_a_host_that_is_not_ours_is_invalid() -> None:
    with pytest.raises(ConfigInvalidError, match=r"host: cannot listen on 203\.0\.113\.1:9"):
        await Server("203.0.113.1", 9).start()
    with pytest.raises(ConfigInvalidError, match=r"host: cannot listen on no\.such\.host\.invalid:0"):
        await Server("no.such.host.invalid", 0).start()


async def test_a_server_starts_once(server: Server, channel: Channel) -> None:
    with pytest.raises(RuntimeError, match="once"):
        await server.start()


async def test_a_server_that_never_started_can_be_stopped() -> None:
    await Server("127.0.0.1", 0).stop(1)


async def test_stop_waits_for_a_running_handler_and_refuses_new_calls(
    server: Server, channel: Channel, kinds: AllKinds
) -> None:
    call = channel.unary_unary(raw("One"))(Request(service="wait").SerializeToString())
    await kinds.entered.wait()
    assert server.running == 1

    stopping = asyncio.ensure_future(server.stop(grace_s=1000))
    late, _ = await code_of(channel.unary_unary(raw("One"))(b"", timeout=30))
    assert not stopping.done()
    kinds.let_go.set()

    assert Response.FromString(await call).status == 1
    await stopping
    assert server.running == 0
    # CANCELLED is gRPC's answer to a call that it took from the wire and had not handed out when the stop began.
    assert late in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_stop_waits_for_a_handler_whose_client_went_away(
    server: Server, channel: Channel, kinds: AllKinds
) -> None:
    kinds.stubborn = True
    call = channel.unary_unary(raw("One"))(Request(service="wait").SerializeToString())
    await kinds.entered.wait()
    call.cancel()
    await kinds.cancelled.wait()

    stopping = asyncio.ensure_future(server.stop(grace_s=1000))
    async with open_channel("127.0.0.1:1") as other:  # a round through gRPC's own threads, in which it would end
        assert not await wait_ready(other, 0.2)
    assert not stopping.done()
    kinds.let_go.set()
    await stopping

    assert server.running == 0


async def test_stop_cancels_what_runs_after_the_grace(server: Server, channel: Channel, kinds: AllKinds) -> None:
    call = channel.unary_unary(raw("One"))(Request(service="wait").SerializeToString())
    await kinds.entered.wait()

    await server.stop(grace_s=0.05)

    assert kinds.cancelled.is_set()
    assert server.running == 0
    code, _ = await code_of(call)
    assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_stop_hooks_come_first(server: Server, channel: Channel, kinds: AllKinds) -> None:
    server.add_stop_hook(kinds.let_go.set)
    call = channel.unary_unary(raw("One"))(Request(service="wait").SerializeToString())
    await kinds.entered.wait()

    await server.stop(grace_s=1000)

    assert Response.FromString(await call).status == 1


def test_grpc_knows_every_option_that_is_set() -> None:
    library = Path(str(import_module("grpc._cython.cygrpc").__file__)).read_bytes()

    names = [name for name, _ in (*channel_options(1024), *Server("127.0.0.1", 0)._options)]

    assert [name for name in names if name.encode() + b"\0" not in library] == []
