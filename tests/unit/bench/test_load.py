"""The load generators: frames, h2load's words, and loads against a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.load import http2, native, offer
from bench.load.h2load import Request, parse
from bench.load.http2 import Frame, FrameReader, HeaderTable
from bench.load.messages import ECHO, ITEMS, echo_request, framed, items_request, varint
from bench.load.pairs import RESERVE
from bench.measure.errors import MeasurementError
from serve_core.v1 import router_pb2
from serve_core.wire.metadata import SLOT_KEY

SIZE = 100
TOKEN = "token-" + "x" * 200
GENERATORS = ["python", "c"] if native.compiler() else ["python"]

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, float]]]


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


def test_a_header_is_sent_in_full_once_and_as_a_number_from_then_on() -> None:
    table = HeaderTable()
    headers = ((":method", "POST"), ("te", "trailers"), ("a", "b"))
    assert table.block(headers) == b"\x83\x40\x02te\x08trailers\x40\x01a\x01b"
    assert table.block(headers) == b"\x83\xbf\xbe"
    assert table.block((("c", "d"),)) == b"\x40\x01c\x01d"
    assert table.block(headers) == b"\x83\xc0\xbf"


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
    """The echo's two methods and reservations, as bytes; every ``broken``-th echo fails."""

    def __init__(self, broken: int) -> None:
        self._broken = broken
        self._seen = 0
        self.promised = 0
        self.tokens: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method == ECHO:
            return grpc.unary_unary_rpc_method_handler(self._echo)
        if handler_call_details.method == RESERVE:
            return grpc.unary_unary_rpc_method_handler(self._reserve)
        return grpc.unary_stream_rpc_method_handler(self._items) if handler_call_details.method == ITEMS else None

    async def _echo(self, request: bytes, context: Any) -> bytes:
        self._seen += 1
        self.tokens += [str(value) for key, value in context.invocation_metadata() if key == SLOT_KEY]
        if self._broken and self._seen % self._broken == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return request

    async def _reserve(self, request: bytes, context: Any) -> bytes:
        assert router_pb2.RouterServiceReserveSlotRequest.FromString(request).application == "app"
        self.promised += 1
        answer = router_pb2.RouterServiceReserveSlotResponse()
        answer.lease.slot_token = f"{TOKEN}{self.promised}"
        answer.replica.address = "127.0.0.1:1"
        return answer.SerializeToString()

    async def _items(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(request[1]):
            yield echo_request(SIZE)


async def asked(server: Server, ask: Ask, question: dict[str, Any]) -> dict[str, float]:
    """What a generator says of a load of a server in this process."""
    running = grpc.aio.server()
    running.add_generic_rpc_handlers((server,))
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    try:
        return await ask({"address": f"127.0.0.1:{port}", "size": SIZE, **question})
    finally:
        await running.stop(None)


@pytest.fixture(scope="module", params=GENERATORS)
def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Both generators: they are asked the same and answer the same."""
    if request.param == "python":
        return lambda question: asyncio.to_thread(offer.offer, dict(question))
    generator = asyncio.run(native.compiled(tmp_path_factory.mktemp("generator")))
    assert generator is not None
    return lambda question: native.offer(generator, question)


@pytest.mark.parametrize("concurrency", [1, 9])
async def test_a_closed_loop_is_answered(ask: Ask, concurrency: int) -> None:
    answer = await asked(Server(0), ask, {"kind": "closed", "concurrency": concurrency, "seconds": 0.3})
    assert answer["requests"] >= concurrency
    assert 0 < answer["p50_ms"] <= answer["p99_ms"]
    assert answer["cpu_s"] >= 0


async def test_an_open_loop_sends_what_its_schedule_says(ask: Ask) -> None:
    answer = await asked(Server(0), ask, {"kind": "open", "rate_s": 500, "seconds": 0.1})
    assert answer["requests"] == 50


async def test_an_open_loop_sends_no_sooner_than_its_schedule_says(ask: Ask) -> None:
    answer = await asked(Server(0), ask, {"kind": "open", "rate_s": 50, "seconds": 0.1})
    assert answer["requests"] == 5
    assert answer["seconds"] >= 0.08


async def test_what_is_sent_to_warm_up_counts_for_the_cost_alone(ask: Ask) -> None:
    answer = await asked(Server(0), ask, {"kind": "open", "rate_s": 500, "warm_s": 0.1, "seconds": 0.1})
    assert answer["requests"] == 100
    assert round(answer["req_s"] * answer["seconds"]) == 50


async def test_a_pair_reserves_and_calls_with_its_own_token(ask: Ask) -> None:
    server = Server(0)
    answer = await asked(server, ask, {"kind": "pairs", "concurrency": 9, "application": "app", "seconds": 0.3})
    assert answer["requests"] == server.promised >= 9
    assert sorted(server.tokens) == sorted(f"{TOKEN}{number + 1}" for number in range(server.promised))


async def test_a_call_that_fails_fails_the_measurement(ask: Ask) -> None:
    with pytest.raises(MeasurementError, match="calls failed"):
        await asked(Server(2), ask, {"kind": "closed", "concurrency": 2, "seconds": 0.3})


async def test_a_pair_whose_call_fails_fails_the_measurement(ask: Ask) -> None:
    with pytest.raises(MeasurementError, match="calls failed"):
        await asked(Server(2), ask, {"kind": "pairs", "concurrency": 2, "application": "app", "seconds": 0.3})


ITEMS_QUESTION = {"kind": "items", "streams": 10, "count": 20, "every_ms": 0}


async def test_streams_give_all_their_items(ask: Ask) -> None:
    answer = await asked(Server(0), ask, ITEMS_QUESTION)
    assert answer["requests"] == 200
    assert answer["items_s"] == pytest.approx(200 / answer["seconds"])
    assert 0 <= answer["gap_p50_ms"] <= answer["gap_p99_ms"]


async def test_a_stream_that_ends_early_fails_the_measurement(ask: Ask) -> None:
    with pytest.raises(MeasurementError, match="10 of 10 streams did not end with their last item"):
        await asked(Server(0), ask, {**ITEMS_QUESTION, "size": SIZE + 1})


def test_the_request_for_items_names_its_numbers() -> None:
    assert items_request(3, 20, 300) == b"\x08\x03\x10\x14\x18\xac\x02"


@pytest.mark.parametrize("cc", ["", "#!/bin/sh\nexit 1\n"], ids=["none", "without headers"])
async def test_without_a_compiler_there_is_no_generator_in_c(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cc: str
) -> None:
    if cc:
        (tmp_path / "cc").write_text(cc)
        (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await native.compiled(tmp_path) is None


def test_what_the_generator_in_c_prints_is_read() -> None:
    answer = native.calls("3 0 0.5 0.000030\n1000000\n3000000\n", scheduled=True)
    assert answer == {"requests": 3, "seconds": 0.5, "req_s": 4, "cpu_s": 0.00003, "p50_ms": 3, "p99_ms": 3}


@pytest.mark.parametrize("printed", ["3 1 0.5 0.1\n1000\n1000\n", "0 0 0.5 0.1\n"])
def test_calls_that_failed_or_none_fail_the_measurement(printed: str) -> None:
    with pytest.raises(MeasurementError, match="calls failed"):
        native.calls(printed, scheduled=False)
