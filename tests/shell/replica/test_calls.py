"""The user's methods over gRPC: asynchronous, in threads, streaming; cancelled, late, and raising."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from serve_core.errors import ApplicationError, Code, ConfigInvalidError, MethodUnknownError, ReplicaDiedError
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import MethodKind, ReplicaPhase
from serve_core.v1 import controller_pb2, replica_pb2
from serve_core.wire.codec import decode_value
from serve_core.wire.fields import encode_duration
from serve_core.wire.metadata import LOAD_KEY, REPLICA_KEY
from serve_core.wire.payload import decode_payload, encode_payload
from tests.shell.replica.support import EPOCH, REPLICA_ID, ready, refused, request

SOURCE = """
import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import serve_core
from serve_core.errors import NoSlotError

inside = threading.Semaphore(0)
gate = threading.Event()
seen = []
contexts = []

@dataclass
class Point:
    x: int
    y: int

class App:
    async def swap(self, point: Point) -> Point:
        return Point(point.y, point.x)

    def block_in_thread(self):
        contexts.append(serve_core.get_request_context())
        inside.release()
        gate.wait()
        seen.append(serve_core.get_request_context().is_cancelled())
        return threading.current_thread().name

    def wait_cancelled(self):
        return contexts[0].cancelled.wait(30)

    def wait_inside(self):
        inside.acquire()
        return "inside"

    async def free(self):
        gate.set()

    async def seen(self):
        return seen

    def time_left(self):
        return serve_core.get_request_context().time_remaining()

    async def who(self):
        request, replica = serve_core.get_request_context(), serve_core.get_replica_context()
        return [request.request_id, request.method, replica.replica_id, replica.application, replica.epoch]

    async def cancelled(self):
        try:
            inside.release()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def cancels_itself(self):
        raise asyncio.CancelledError

    def stops(self):
        raise StopIteration

    def exits(self):
        raise SystemExit(3)

    async def looks_refused(self):
        raise NoSlotError("of another deployment", details={"a": "b"})

    async def chooses(self):
        raise serve_core.ApplicationError("taken", code=serve_core.Code.ALREADY_EXISTS, details={"name": "n"})

    async def unsendable(self):
        return object()

    async def count(self, n: int):
        for i in range(n):
            yield i

    def count_in_threads(self, n: int):
        try:
            for i in range(n):
                yield i
        finally:
            seen.append("closed")

    def returns_stream(self, n: int) -> AsyncIterator[int]:
        return self.count(n)

    async def fails_midway(self):
        yield 1
        raise KeyError("two")

    async def total(self, points: AsyncIterator[Point], factor: int) -> int:
        total = 0
        async for point in points:
            total += point.x * factor
        return total

    async def echo(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item + 1

    def echo_in_threads(self, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item * 2

    def reads_for_ever(self, items: Iterator[int]) -> int:
        inside.release()
        return sum(items)

    async def for_ever(self):
        try:
            while True:
                yield 1
                inside.release()
                await asyncio.Event().wait()
        finally:
            seen.append("generator closed")

async def function(name: str) -> str:
    return f"hello {name}"
"""


async def test_arguments_and_results_are_typed(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert await running.call("swap", {"x": 1, "y": 2}) == {"x": 2, "y": 1}
        json = encode_payload(Payload(Encoding.JSON, b'{"point": {"x": 1, "y": 2}}'))
        answer = await running.stub.Dispatch(replica_pb2.DispatchRequest(method="swap", arguments=json))
        assert answer.result.data == b'{"x":2,"y":1}'
        bad = await refused(running.call("swap", {"x": "one", "y": 2}))
        assert isinstance(bad, ConfigInvalidError)
        assert bad.violations[0].field.startswith("arguments.point")


async def test_a_function_is_called_without_a_method(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, target="function") as running:
        assert await running.call("", "Ada") == "hello Ada"
        assert await running.call("__call__", "Ada") == "hello Ada"


async def test_methods_are_told_with_their_shapes(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        report = running.controller.reports[-1]
        kinds = {method.name: method.kind for method in report.methods}
        assert kinds["swap"] is kinds["block_in_thread"] is MethodKind.UNARY
        assert kinds["count"] is kinds["count_in_threads"] is kinds["returns_stream"] is MethodKind.SERVER_STREAM
        assert kinds["total"] is kinds["reads_for_ever"] is MethodKind.CLIENT_STREAM
        assert kinds["echo"] is kinds["echo_in_threads"] is MethodKind.BIDI_STREAM


async def test_a_method_in_a_thread_holds_its_slot_until_the_thread_ends(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=3) as running:
        call = running.stub.Dispatch(request("block_in_thread"))
        assert await running.call("wait_inside") == "inside"
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await running.call("wait_cancelled") is True
        # The call's own task is gone; the thread is not.
        assert await running.call("seen") == []
        assert running.app.desk.load.ongoing == 1
        await running.call("free")
        await running.until_load(0, 0)
        assert await running.call("seen") == [True]


async def test_methods_in_threads_run_side_by_side(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE, max_ongoing_requests=3) as running:
        calls = [running.stub.Dispatch(request("block_in_thread")) for _ in range(2)]
        await running.call("wait_inside")
        await running.call("wait_inside")
        await running.call("free")
        names = {decode_value(decode_payload((await call).result)) for call in calls}
        assert len(names) == 2


async def test_the_context_reaches_user_code(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        answer = await running.call("who", request_id="r-1")
        assert answer == ["r-1", "who", REPLICA_ID, "app", EPOCH]
        left = await running.call("time_left", timeout=15)
        assert 0 < left < 17  # gRPC rounds deadlines up on their way


async def test_no_deadline_is_none(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        answer = await running.stub.Dispatch(request("time_left"))
        assert decode_value(decode_payload(answer.result)) is None


async def test_cancellation_reaches_user_code(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.Dispatch(request("cancelled"))
        await running.call("wait_inside")
        call.cancel()
        await running.until_load(0, 0)
        assert await running.call("seen") == ["cancelled"]


async def test_exceptions_arrive_typed_with_their_traceback(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        error = await refused(running.call("chooses"))
        assert isinstance(error, ApplicationError)
        assert error.code is Code.ALREADY_EXISTS
        assert error.message == "taken"
        assert error.details["name"] == "n"
        assert error.replica_id == REPLICA_ID
        assert "in chooses" in error.remote_traceback
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call("chooses")
        assert dict(caught.value.trailing_metadata() or ())[REPLICA_KEY] == REPLICA_ID
        assert dict(caught.value.trailing_metadata() or ())[LOAD_KEY] == "0,0,5"


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("stops", Code.UNKNOWN),
        ("exits", Code.UNKNOWN),
        ("cancels_itself", Code.CANCELLED),
        ("looks_refused", Code.RESOURCE_EXHAUSTED),
        ("unsendable", Code.INVALID_ARGUMENT),
    ],
)
async def test_whatever_user_code_raises_is_an_application_error(tmp_path: Path, method: str, code: Code) -> None:
    async with ready(tmp_path, SOURCE) as running:
        error = await refused(running.call(method))
        assert isinstance(error, ApplicationError)
        assert error.code is code
        assert running.app.desk.counters.dispatched_error == 1
        assert running.app.desk.load.ongoing == 0


@pytest.mark.parametrize("method", ["count", "count_in_threads", "returns_stream"])
async def test_streams_out(tmp_path: Path, method: str) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert await running.stream(method, 3) == [0, 1, 2]
        assert await running.stream(method, 2, token=await running.token()) == [0, 1]
        await running.until_load(0, 0)
        assert running.app.desk.counters.dispatched_ok == 2


async def test_streams_in_and_both_ways(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert await running.stream("total", 10, items=[{"x": 1, "y": 0}, {"x": 2, "y": 0}]) == [30]
        assert await running.stream("echo", items=[1, 2, 3]) == [2, 3, 4]
        assert await running.stream("echo_in_threads", items=[1, 2]) == [2, 4]
        assert await running.stream("reads_for_ever", items=[1, 2]) == [3]


async def test_a_bad_item_is_the_callers_fault(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        error = await refused(running.stream("total", 1, items=[{"x": "?"}]))
        assert error.code is Code.INVALID_ARGUMENT
        assert "item.x" in error.message


async def test_an_error_midway_ends_the_stream(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.DispatchStream()
        await call.write(replica_pb2.DispatchStreamRequest(open=request("fails_midway")))
        assert decode_value(decode_payload((await call.read()).item)) == 1
        error = await refused(call.read())
        assert isinstance(error, ApplicationError)
        assert error.remote_type == "builtins:KeyError"


async def test_the_wrong_shape_and_a_bad_opening_are_refused(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        assert isinstance(await refused(running.call("count", 1)), MethodUnknownError)
        assert isinstance(await refused(running.stream("swap", 1)), MethodUnknownError)
        call = running.stub.DispatchStream()
        await call.write(replica_pb2.DispatchStreamRequest())
        assert isinstance(await refused(call.read()), ConfigInvalidError)


async def test_cancelling_a_stream_closes_the_generator(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.DispatchStream()
        await call.write(replica_pb2.DispatchStreamRequest(open=request("for_ever")))
        await running.call("wait_inside")
        call.cancel()
        await running.until_load(0, 0)
        assert await running.call("seen") == ["generator closed"]


async def test_cancelling_lets_a_thread_go_that_waits_for_items(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.DispatchStream()
        await call.write(replica_pb2.DispatchStreamRequest(open=request("reads_for_ever")))
        await running.call("wait_inside")
        call.cancel()
        await running.until_load(0, 0)


async def test_a_generator_in_threads_is_closed_when_its_caller_leaves(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.DispatchStream()
        await call.write(replica_pb2.DispatchStreamRequest(open=request("count_in_threads", 10_000_000)))
        await call.read()
        call.cancel()
        await running.until_load(0, 0)
        assert await running.call("seen") == ["closed"]


async def test_calls_that_outlive_the_budget_are_told_that_the_replica_died(tmp_path: Path) -> None:
    async with ready(tmp_path, SOURCE) as running:
        call = running.stub.Dispatch(request("cancelled"))
        await running.call("wait_inside")
        running.controller.send(drain=controller_pb2.DrainCommand(budget=encode_duration(0.05)))
        assert isinstance(await refused(call), ReplicaDiedError)
        await running.controller.phase(ReplicaPhase.GONE)
        assert await running.task == 0
