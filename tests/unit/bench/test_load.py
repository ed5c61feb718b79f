"""The load generators: frames, h2load's words, and loads against a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from bench.load import http2, offer
from bench.load.h2load import Request, parse
from bench.load.http2 import Frame, FrameReader
from bench.load.messages import ECHO, ITEMS, echo_request, framed, items_request, varint
from bench.measure.errors import MeasurementError

SIZE = 100


def test_frames_are_cut_out_wherever_the_bytes_were_split() -> None:
    sent = http2.frame(http2.DATA, 0, 1, b"abc") + http2.frame(http2.HEADERS, http2.END_STREAM, 3, b"")
    wanted = [Frame(http2.DATA, 0, 1, b"abc"), Frame(http2.HEADERS, http2.END_STREAM, 3, b"")]
    for at in range(len(sent)):
        reader = FrameReader()
        assert [*reader.feed(sent[:at]), *reader.feed(sent[at:])] == wanted


def test_padding_is_not_data() -> None:
    assert http2.data_of(Frame(http2.DATA, http2.PADDED, 1, b"\x02abc\0\0")) == b"abc"


def test_long_header_values_have_a_long_length() -> None:
    # 300 = 127 + 173, and 173 = 0b1_0101101 in groups of seven.
    assert http2.header_block([("a", "v" * 300)]) == b"\0\x01a\x7f\xad\x01" + b"v" * 300


def test_settings_are_read() -> None:
    assert http2.settings(b"\0\x03\0\0\0\x64\0\x04\0\0\xff\xff") == {3: 100, 4: 65535}


@pytest.mark.parametrize(("value", "wanted"), [(0, b"\0"), (127, b"\x7f"), (300, b"\xac\x02")])
def test_varints(value: int, wanted: bytes) -> None:
    assert varint(value) == wanted


H2LOAD = """
finished in 1.01s, 2.00 req/s, 918.14KB/s
requests: 2 total, 3 started, 2 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
traffic: 918.14KB (940176) total, 17.36KB (17775) headers (space savings 96.17%), 598.22KB (214) data
"""


def test_what_h2load_prints_and_logs_is_read() -> None:
    answered = parse(H2LOAD.format(succeeded=2), "1795173433009792\t200\t7000\n1795173433009794\t200\t12000\n")
    assert (answered.requests, answered.data_bytes, answered.taken_s) == (2, 214, [0.007, 0.012])


@pytest.mark.parametrize("output", [H2LOAD.format(succeeded=1), "connection refused"])
def test_a_run_of_h2load_that_failed_is_an_error(output: str) -> None:
    with pytest.raises(MeasurementError):
        parse(output, "")


def test_an_answer_is_to_be_as_long_as_the_echo() -> None:
    assert Request.grpc(ECHO, echo_request(SIZE)).answer_bytes == len(framed(echo_request(SIZE))) == 107


class Server(grpc.GenericRpcHandler):
    """The echo's two methods, as bytes; every ``broken``-th echo fails."""

    def __init__(self, broken: int) -> None:
        self._broken = broken
        self._seen = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == ECHO:
            return grpc.unary_unary_rpc_method_handler(self._echo)
        return grpc.unary_stream_rpc_method_handler(self._items) if handler_call_details.method == ITEMS else None

    async def _echo(self, request: bytes, context: Any) -> bytes:
        self._seen += 1
        if self._broken and self._seen % self._broken == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return request

    async def _items(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(request[1]):
            yield echo_request(SIZE)


async def served(ask: Callable[[str], dict[str, float]], *, broken: int = 0) -> dict[str, float]:
    """What a load of a server in this process gives, from a thread of its own."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Server(broken),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        return await asyncio.to_thread(ask, f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


async def test_a_closed_loop_is_answered() -> None:
    answer = await served(lambda address: offer.closed(address, concurrency=9, seconds=0.05, size=SIZE))
    assert answer["requests"] >= 9
    assert 0 < answer["p50_ms"] <= answer["p99_ms"]


async def test_an_open_loop_sends_what_its_schedule_says() -> None:
    answer = await served(lambda address: offer.open_(address, rate_s=500, seconds=0.1, size=SIZE))
    assert answer["requests"] == 50


async def test_an_open_loop_sends_no_sooner_than_its_schedule_says() -> None:
    answer = await served(lambda address: offer.open_(address, rate_s=50, seconds=0.1, size=SIZE))
    assert answer["requests"] == 5
    assert answer["seconds"] >= 0.08


async def test_streams_give_all_their_items() -> None:
    answer = await served(lambda address: offer.items(address, streams=10, count=20, size=SIZE, every_ms=0))
    assert answer["requests"] == 200


async def test_a_call_that_fails_fails_the_measurement() -> None:
    with pytest.raises(MeasurementError, match="calls failed"):
        await served(lambda address: offer.closed(address, concurrency=2, seconds=0.05, size=SIZE), broken=3)


async def test_a_stream_that_ends_early_fails_the_measurement() -> None:
    with pytest.raises(MeasurementError, match="last item"):
        await served(lambda address: offer.items(address, streams=2, count=3, size=SIZE + 1, every_ms=0))


def test_the_request_for_items_names_its_numbers() -> None:
    assert items_request(3, 20, 300) == b"\x08\x03\x10\x14\x18\xac\x02"
