"""The user's own gRPC service: all four kinds of calls, asynchronous and in threads, behind slots."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serve_core.errors import ApplicationError, Code, ConfigInvalidError, NoSlotError, SlotConsumedError
from serve_core.model.replica import Method, MethodKind, UserService
from serve_core.wire.errors import decode_error
from serve_core.wire.metadata import LOAD_KEY, OWNER_KEY, REPLICA_KEY, SLOT_KEY, SLOTS_KEY
from tests.shell.replica.adder import Generated, numbers
from tests.shell.replica.support import REPLICA_ID, WAIT_S, Running, ready, refused

ASYNC_SOURCE = """
import asyncio
import threading
import grpc
import serve_core
from {module}_pb2 import Number
from {module}_pb2_grpc import AdderServicer

log = []
inside = threading.Semaphore(0)

class App(AdderServicer):
    async def One(self, request, context):
        if request.value == 1:
            await context.send_initial_metadata((("early", "yes"),))
            context.set_trailing_metadata((("late", "yes"),))
        elif request.value == 2:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "twice", (("why", "because"),))
        elif request.value == 3:
            raise ValueError("three")
        elif request.value == 4:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("four")
            raise KeyError("hidden")
        elif request.value == 5:
            context.set_code(grpc.StatusCode.DATA_LOSS)
            context.set_details("five")
        elif request.value == 6:
            try:
                log.append("waits")
                inside.release()
                await asyncio.Event().wait()
            finally:
                log.append("cancelled")
        elif request.value == 7:
            return Number(value=int(serve_core.get_request_context().time_remaining() < 30))
        elif request.value == 8:
            raise serve_core.ApplicationError("eight", code=serve_core.Code.PERMISSION_DENIED)
        elif request.value == 9:
            assert context.peer().startswith("ipv4:127.0.0.1:")
            assert context.peer_identities() is None and context.peer_identity_key() is None
            assert context.auth_context()["transport_security_type"] == [b"insecure"]
            assert ("asked", "yes") in tuple(context.invocation_metadata())
            assert context.code() is None and not context.details()
            context.set_compression(grpc.Compression.Gzip)
            context.disable_next_message_compression()
            context.set_trailing_metadata((("late", "yes"),))
            assert context.trailing_metadata() == (("late", "yes"),)
            assert not context.done() and not context.cancelled()
            context.add_done_callback(lambda ended: ended.trailing_metadata())
            try:
                await context.abort(grpc.StatusCode.ABORTED, "nine", (("more", "yes"),))
            finally:
                assert (context.code(), context.details()) == (grpc.StatusCode.ABORTED, "nine")
        return Number(value=request.value + 1)

    async def Split(self, request, context):
        for value in range(request.value):
            yield Number(value=value)
        context.set_trailing_metadata((("late", "yes"),))

    async def Sum(self, requests, context):
        return Number(value=sum([request.value async for request in requests]))

    async def Each(self, requests, context):
        async for request in requests:
            await context.write(Number(value=request.value * 2))

    def wait_inside(self) -> None:
        inside.acquire()

    async def plain(self, x: int) -> int:
        return x + 100
"""

SYNC_SOURCE = """
import threading
import grpc
import serve_core
from {module}_pb2 import Number
from {module}_pb2_grpc import AdderServicer

log = []
inside = threading.Semaphore(0)

class App(AdderServicer):
    def One(self, request, context):
        if request.value == 1:
            context.send_initial_metadata((("early", "yes"),))
            context.set_trailing_metadata((("late", "yes"),))
        elif request.value == 2:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "twice")
        elif request.value == 3:
            raise ValueError("three")
        elif request.value == 4:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("four")
            raise KeyError("hidden")
        elif request.value == 5:
            context.set_code(grpc.StatusCode.DATA_LOSS)
            context.set_details("five")
        elif request.value == 6:
            over = threading.Event()
            assert context.is_active()
            assert context.add_callback(over.set)
            log.append("waits")
            inside.release()
            over.wait()
            log.append("cancelled")
        elif request.value == 7:
            return Number(value=int(serve_core.get_request_context().time_remaining() < 30))
        elif request.value == 8:
            raise serve_core.ApplicationError("eight", code=serve_core.Code.PERMISSION_DENIED)
        elif request.value == 9:
            assert context.peer().startswith("ipv4:127.0.0.1:")
            assert context.peer_identities() is None and context.peer_identity_key() is None
            assert context.auth_context()["transport_security_type"] == [b"insecure"]
            assert ("asked", "yes") in tuple(context.invocation_metadata())
            assert context.code() is None and not context.details()
            context.set_compression(grpc.Compression.Gzip)
            context.disable_next_message_compression()
            context.set_trailing_metadata((("late", "yes"),))
            assert context.trailing_metadata() == (("late", "yes"),)
            assert context.add_callback(lambda: 1 / 0)
            try:
                context.abort(grpc.StatusCode.ABORTED, "nine", (("more", "yes"),))
            finally:
                assert (context.code(), context.details()) == (grpc.StatusCode.ABORTED, "nine")
        return Number(value=request.value + 1)

    def Split(self, request, context):
        for value in range(request.value):
            yield Number(value=value)
        context.set_trailing_metadata((("late", "yes"),))

    def Sum(self, requests, context):
        return Number(value=sum(request.value for request in requests))

    def Each(self, requests, context):
        for request in requests:
            yield Number(value=request.value * 2)

    def wait_inside(self) -> None:
        inside.acquire()

    def plain(self, x: int) -> int:
        return x + 100
"""


ROUTED = ((OWNER_KEY, "router"),)
"""What a router's calls carry: whoever sends it is told of the load with each answer."""


@pytest.fixture(params=[ASYNC_SOURCE, SYNC_SOURCE], ids=["async", "sync"])
def source(request: pytest.FixtureRequest, generated: Generated) -> str:
    return str(request.param).format(module=generated.module)


def stub_of(running: Running, generated: Generated) -> Any:
    return generated.grpc.AdderStub(running.channel)


async def test_all_four_kinds_of_calls(tmp_path: Path, generated: Generated, source: str) -> None:
    async with ready(tmp_path, source) as running:
        stub, number = stub_of(running, generated), generated.pb2.Number
        call = stub.One(number(value=1), timeout=WAIT_S)
        assert (await call).value == 2
        assert dict(await call.initial_metadata())["early"] == "yes"
        assert {key for key, _ in await call.trailing_metadata()} == {"late"}
        call = stub.One(number(value=1), timeout=WAIT_S, metadata=ROUTED)
        await call
        trailers = dict(await call.trailing_metadata())
        assert trailers["late"] == "yes"
        assert trailers[REPLICA_KEY] == REPLICA_ID
        assert trailers[LOAD_KEY] == "0,0,5"
        split = stub.Split(number(value=3), metadata=ROUTED)
        assert [item.value async for item in split] == [0, 1, 2]
        trailers = dict(await split.trailing_metadata())
        assert (trailers["late"], trailers[LOAD_KEY]) == ("yes", "0,0,5")
        assert (await stub.Sum(numbers(generated, 1, 2, 3))).value == 6
        assert [item.value async for item in stub.Each(numbers(generated, 1, 2))] == [2, 4]
        assert running.app.desk.counters.dispatched_ok == 5


async def test_statuses_are_the_users_own(tmp_path: Path, generated: Generated, source: str) -> None:
    expected = {
        2: (grpc.StatusCode.ALREADY_EXISTS, "twice"),
        3: (grpc.StatusCode.UNKNOWN, "three"),
        4: (grpc.StatusCode.NOT_FOUND, "four"),
        5: (grpc.StatusCode.DATA_LOSS, "five"),
        8: (grpc.StatusCode.PERMISSION_DENIED, "eight"),
    }
    async with ready(tmp_path, source) as running:
        for value, (code, details) in expected.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub_of(running, generated).One(generated.pb2.Number(value=value))
            assert (caught.value.code(), caught.value.details()) == (code, details)
            trailers = dict(caught.value.trailing_metadata() or ())
            assert trailers[REPLICA_KEY] == REPLICA_ID
            assert trailers[LOAD_KEY] == "0,0,5"
            known = decode_error(caught.value)
            assert isinstance(known, ApplicationError) is (value in (3, 4, 8))
        assert running.app.desk.counters.dispatched_error == len(expected)
        error = await refused(stub_of(running, generated).One(generated.pb2.Number(value=3)))
        assert error.code is Code.UNKNOWN
        assert "in One" in error.remote_traceback


async def test_the_context_is_all_of_grpcios(tmp_path: Path, generated: Generated, source: str) -> None:
    async with ready(tmp_path, source) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub_of(running, generated).One(generated.pb2.Number(value=9), metadata=(("asked", "yes"),))
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "nine")
        trailers = dict(caught.value.trailing_metadata() or ())
        assert (trailers["late"], trailers["more"], trailers[LOAD_KEY]) == ("yes", "yes", "0,0,5")


async def test_slots_stand_before_the_users_methods(tmp_path: Path, generated: Generated, source: str) -> None:
    async with ready(tmp_path, source, max_ongoing_requests=1) as running:
        stub, number = stub_of(running, generated), generated.pb2.Number
        token = await running.token()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.One(number(value=10), metadata=((OWNER_KEY, "router"),))
        assert isinstance(decode_error(caught.value), NoSlotError)
        assert dict(caught.value.trailing_metadata() or ())[REPLICA_KEY] == REPLICA_ID
        assert (await stub.One(number(value=10), metadata=((SLOT_KEY, token),))).value == 11
        again = await refused(stub.One(number(value=10), metadata=((SLOT_KEY, token),)))
        assert isinstance(again, SlotConsumedError)
        assert isinstance(
            await refused(stub.Sum(numbers(generated, 1), metadata=((SLOTS_KEY, "2"),))), ConfigInvalidError
        )
        assert isinstance(await refused(stub.One(number(), metadata=((SLOTS_KEY, "x"),))), ConfigInvalidError)
        assert (await stub.Sum(numbers(generated, 1), metadata=((SLOTS_KEY, "1"),))).value == 1


async def test_cancellation_and_deadline_reach_the_users_method(
    tmp_path: Path, generated: Generated, source: str
) -> None:
    async with ready(tmp_path, source) as running:
        stub, number = stub_of(running, generated), generated.pb2.Number
        assert (await stub.One(number(value=7), timeout=20)).value == 1
        call = stub.One(number(value=6))
        log = importlib.import_module(running.controller.spec.import_path.partition(":")[0]).log
        await running.call("wait_inside")
        call.cancel()
        await running.until_load(0, 0)
        assert log == ["waits", "cancelled"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.One(number(value=6), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await running.until_load(0, 0)


async def test_a_request_that_does_not_parse_is_the_callers_fault(
    tmp_path: Path, generated: Generated, source: str
) -> None:
    async with ready(tmp_path, source) as running:
        raw: Any = running.channel.unary_unary(f"/{generated.package}.Adder/One")
        error = await refused(raw(b"\xff\xff\xff"))
        assert isinstance(error, ConfigInvalidError)
        assert running.app.desk.load.ongoing == 0


async def test_unknown_methods_are_unimplemented(tmp_path: Path, generated: Generated, source: str) -> None:
    async with ready(tmp_path, source) as running:
        raw: Any = running.channel.unary_unary(f"/{generated.package}.Adder/None")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_service_is_told_and_its_methods_are_not_offered_twice(
    tmp_path: Path, generated: Generated, source: str
) -> None:
    async with ready(tmp_path, source) as running:
        report = running.controller.reports[-1]
        name = f"{generated.package}.Adder"
        kinds = [MethodKind.UNARY, MethodKind.SERVER_STREAM, MethodKind.CLIENT_STREAM, MethodKind.BIDI_STREAM]
        methods = tuple(map(Method, ["One", "Split", "Sum", "Each"], kinds))
        assert report.services == (UserService(name, methods),)
        assert {method.name for method in report.methods} == {"plain", "wait_inside"}
        assert generated.package.encode() in report.file_descriptor_set
        assert await running.call("plain", 1) == 101

        health = health_pb2_grpc.HealthStub(running.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

        reflection = reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo()
        await reflection.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
        async with asyncio.timeout(WAIT_S):
            found = await reflection.read()
        assert len(found.file_descriptor_response.file_descriptor_proto) == 1
        reflection.cancel()
