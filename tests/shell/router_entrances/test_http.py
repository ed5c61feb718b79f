"""The HTTP entrance over a real socket, in front of a caller that answers from a script."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from router.admin import AdminPages, json_errors
from router.gate import Gate
from router.http import HttpEntrance
from router.observe import Observer
from serve_core.errors import (
    ApplicationError,
    Code,
    DeploymentUnknownError,
    QueueFullError,
    ReplicaDiedError,
)
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey
from serve_core.model.payload import Encoding, Payload
from serve_core.model.replica import Method, MethodKind
from serve_core.runtime.metrics import exposition

LIMIT = 10_000

METHODS = (
    Method("__call__", MethodKind.UNARY),
    Method("add", MethodKind.UNARY),
    Method("count", MethodKind.SERVER_STREAM),
    Method("chat", MethodKind.BIDI_STREAM),
)


class FakeCaller:
    """Echoes the arguments of unary calls, and counts in streams, unless told otherwise."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, dict[str, Any]]] = []
        self.error: Exception | None = None
        self.fails_after = 3
        self.hang = asyncio.Event()
        self.hangs = False
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.result: Payload | None = None

    def resolve(self, application: str, deployment: str = "") -> DeploymentRoute:
        if application != "shop" or deployment not in ("", "cart"):
            raise DeploymentUnknownError(f"no {application}", details={"application": application})
        return DeploymentRoute(key=DeploymentKey("shop", "cart"), ingress=True, available=True, methods=METHODS)

    async def call(self, application: str, deployment: str, method: str, arguments: Payload, **options: Any) -> Payload:
        self.calls.append((application, deployment, method, options))
        await self._behave()
        return self.result or arguments

    async def stream(
        self, application: str, deployment: str, method: str, arguments: Payload, **options: Any
    ) -> AsyncIterator[Payload]:
        self.calls.append((application, deployment, method, options))
        if self.fails_after == 0:
            await self._behave()
        for number in range(3):
            if number == self.fails_after:
                await self._behave()
            yield Payload(Encoding.JSON, json.dumps(number).encode())

    async def _behave(self) -> None:
        self.entered.set()
        if self.error is not None:
            raise self.error
        if self.hangs:
            try:
                await self.hang.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise


class Served:
    def __init__(self, caller: FakeCaller, gate: Gate, url: str, session: aiohttp.ClientSession) -> None:
        self.caller, self.gate, self.url, self.session = caller, gate, url, session
        self.ready = True

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.session.post(
            self.url + path, data=json.dumps(body).encode() if body is not None else b"", **options
        )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    caller, gate, registry = FakeCaller(), Gate("r1"), CollectorRegistry()
    gate.open()
    observer = Observer(registry, monotonic=asyncio.get_running_loop().time)
    app = web.Application(client_max_size=LIMIT, middlewares=[json_errors])
    entrance = HttpEntrance(
        caller, gate=gate, observer=observer, max_message_bytes=LIMIT, new_request_id=lambda: "minted"
    )
    entrance.add_routes(app)
    runner = web.AppRunner(app, handler_cancellation=True)

    async def scraped(accept: str) -> tuple[bytes, str]:
        return exposition(registry, accept)

    async with aiohttp.ClientSession() as session:
        served = Served(caller, gate, "", session)
        AdminPages(scraped, lambda: {"table": served.ready, "open": not gate.closed}, router_id="r1").add_routes(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield served
    await runner.cleanup()


async def error_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == "application/json"
    described: dict[str, Any] = (await response.json())["error"]
    return described


async def test_json_in_json_out(served: Served) -> None:
    async with served.post("/shop/add", {"a": 1}, headers={"x-request-id": "mine"}) as response:
        assert (response.status, await response.json()) == (200, {"a": 1})
        assert response.headers["x-request-id"] == "mine"
    assert served.caller.calls == [("shop", "cart", "add", {"timeout_s": None, "request_id": "mine", "slot_token": ""})]


async def test_a_deployment_may_be_named_and_a_method_left_out(served: Served) -> None:
    async with served.post("/shop/cart/add", [1]) as response:
        assert response.status == 200
        assert response.headers["x-request-id"] == "minted"
    async with served.post("/shop", 5) as response:
        assert await response.json() == 5
    assert [call[2] for call in served.caller.calls] == ["add", "__call__"]


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "\u00fc"])
async def test_a_request_id_that_is_none_is_replaced(served: Served, given: str) -> None:
    async with served.post("/shop/add", 1, headers={"x-request-id": given}) as response:
        assert response.headers["x-request-id"] == "minted"


async def test_deadline_and_slot_are_passed_on(served: Served) -> None:
    headers = {"x-request-timeout-s": "2.5", "serve-core-slot": "token"}
    async with served.post("/shop/add", 1, headers=headers) as response:
        assert response.status == 200
    assert served.caller.calls[0][3] == {"timeout_s": 2.5, "request_id": "minted", "slot_token": "token"}


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "inf", "1e99"])
async def test_a_deadline_that_is_none_is_refused(served: Served, given: str) -> None:
    async with served.post("/shop/add", 1, headers={"x-request-timeout-s": given}) as response:
        error = await error_of(response)
        assert (response.status, error["reason"]) == (400, "CONFIG_INVALID")
        assert error["violations"][0]["field"] == "x-request-timeout-s"
    assert served.caller.calls == []


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        (QueueFullError("full", retry_after_s=0.2), 429, "QUEUE_FULL", "1"),
        (ReplicaDiedError("died"), 503, "REPLICA_DIED", "1"),
        (ApplicationError("mine", code=Code.ABORTED), 409, "APPLICATION_ERROR", None),
        (ApplicationError("mine"), 500, "APPLICATION_ERROR", None),
    ],
)
async def test_errors_are_json_with_their_status(
    served: Served, error: Exception, status: int, reason: str, retry_after: str | None
) -> None:
    served.caller.error = error
    async with served.post("/shop/add", 1) as response:
        assert (response.status, (await error_of(response))["reason"]) == (status, reason)
        assert response.headers.get("Retry-After") == retry_after
        assert response.headers["x-request-id"] == "minted"


async def test_unknown_names_say_what_there_is(served: Served) -> None:
    async with served.post("/nothing/add", 1) as response:
        assert (response.status, (await error_of(response))["reason"]) == (404, "DEPLOYMENT_UNKNOWN")
    async with served.post("/shop/subtract", 1) as response:
        error = await error_of(response)
        assert (response.status, error["reason"]) == (501, "METHOD_UNKNOWN")
        assert "__call__, add, chat, count" in error["message"]
    async with served.post("/shop/chat", 1) as response:
        error = await error_of(response)
        assert (response.status, error["reason"]) == (501, "METHOD_UNKNOWN")
        assert "over gRPC" in error["message"]


@pytest.mark.parametrize(("verb", "path", "status"), [("GET", "/shop/add", 405), ("POST", "/a/b/c/d", 404)])
async def test_other_verbs_and_paths_are_json_errors_too(served: Served, verb: str, path: str, status: int) -> None:
    async with served.session.request(verb, served.url + path) as response:
        assert response.status == status
        assert "POST /APPLICATION/METHOD" in (await error_of(response))["message"]


@pytest.mark.parametrize("told_length", [True, False])
async def test_a_body_above_the_limit_is_refused(served: Served, told_length: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1000 + 1):
            yield b"x" * 1000

    body: Any = b"x" * (LIMIT + 1) if told_length else chunks()
    async with served.session.post(f"{served.url}/shop/add", data=body) as response:
        error = await error_of(response)
        assert (response.status, error["reason"]) == (413, "MESSAGE_TOO_LARGE")
        assert error["details"]["maxMessageBytes"] == str(LIMIT)


async def test_a_method_that_streams_is_sent_as_events(served: Served) -> None:
    async with served.post("/shop/count", 1) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["x-request-id"] == "minted"
        assert await response.text() == "data: 0\n\ndata: 1\n\ndata: 2\n\nevent: end\ndata:\n\n"


async def test_a_unary_method_is_sent_as_one_event_when_asked(served: Served) -> None:
    async with served.post("/shop/add", "x", headers={"accept": "text/event-stream"}) as response:
        assert await response.text() == 'data: "x"\n\nevent: end\ndata:\n\n'


async def test_json_of_several_lines_is_one_event(served: Served) -> None:
    served.caller.result = Payload(Encoding.JSON, b"[\n1]")
    async with served.post("/shop/add", "x", headers={"accept": "text/event-stream"}) as response:
        assert await response.text() == "data: [\ndata: 1]\n\nevent: end\ndata:\n\n"


async def test_a_protobuf_answer_goes_out_as_it_is(served: Served) -> None:
    served.caller.result = Payload(Encoding.PROTOBUF, b"\x08\x01", "shop.v1.Cart")
    async with served.post("/shop/add", 1) as response:
        assert (response.content_type, await response.read()) == ("application/x-protobuf", b"\x08\x01")
        assert response.headers["serve-core-message-type"] == "shop.v1.Cart"
    async with served.post("/shop/add", 1, headers={"accept": "text/event-stream"}) as response:
        assert (await response.text()).startswith('data: {"typeName": "shop.v1.Cart", "base64": "CAE="}\n\n')


async def test_an_error_before_the_first_event_has_its_status(served: Served) -> None:
    served.caller.fails_after, served.caller.error = 0, QueueFullError("full")
    async with served.post("/shop/count", 1) as response:
        assert (response.status, (await error_of(response))["reason"]) == (429, "QUEUE_FULL")


async def test_an_error_later_is_an_event(served: Served) -> None:
    served.caller.fails_after, served.caller.error = 2, ReplicaDiedError("died")
    async with served.post("/shop/count", 1) as response:
        assert response.status == 200
        events = (await response.text()).split("\n\n")
    assert events[:2] == ["data: 0", "data: 1"]
    name, data = events[2].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["reason"] == "REPLICA_DIED"


@pytest.mark.parametrize("path", ["/shop/add", "/shop/count"])
async def test_a_caller_that_goes_away_cancels(served: Served, path: str) -> None:
    served.caller.hangs, served.caller.fails_after = True, 1
    request = asyncio.ensure_future(_read(served.post(path, 1)))
    await served.caller.entered.wait()
    request.cancel()
    await served.caller.cancelled.wait()
    assert served.gate.inside == 0 or await served.gate.drained(30)


async def _read(request: Any) -> None:
    async with request as response:
        await response.read()


async def test_a_draining_router_refuses_new_calls_and_is_not_ready(served: Served) -> None:
    served.gate.close()
    async with served.post("/shop/add", 1) as response:
        assert (response.status, (await error_of(response))["reason"]) == (503, "DRAINING")
        assert response.headers["Retry-After"] == "1"
    async with served.session.get(f"{served.url}/readyz") as response:
        assert response.status == 503
    async with served.session.get(f"{served.url}/livez") as response:
        assert (response.status, await response.text()) == (200, "ok\n")


async def test_a_deadline_that_ends_inside_the_call_is_a_gateway_timeout(served: Served) -> None:
    served.caller.error = grpc.aio.AioRpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="Deadline Exceeded"
    )
    async with served.post("/shop/add", 1) as response:
        error = await error_of(response)
        assert (response.status, error["reason"], error["code"]) == (504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


async def test_readiness_says_what_is_missing(served: Served) -> None:
    served.ready = False
    async with served.session.get(f"{served.url}/readyz?verbose") as response:
        assert response.status == 503
        assert await response.text() == "[-]table failed\n[+]open ok\nreadyz check failed\n"
    served.ready = True
    async with served.session.get(f"{served.url}/readyz") as response:
        assert (response.status, await response.text()) == (200, "ok\n")


async def test_metrics_count_calls_by_method(served: Served) -> None:
    async with served.post("/shop/add", 1):
        pass
    async with served.post("/nothing/add", 1):
        pass
    async with served.session.get(f"{served.url}/metrics") as response:
        text = await response.text()
        assert response.content_type == "text/plain"
    assert 'grpc_server_call_started_total{grpc_method="/shop.cart/add"} 1.0' in text
    assert 'grpc_server_call_started_total{grpc_method="other"} 1.0' in text
    assert 'grpc_server_call_duration_seconds_count{grpc_method="other",grpc_status="NOT_FOUND"} 1.0' in text


async def test_version(served: Served) -> None:
    async with served.session.get(f"{served.url}/version") as response:
        told = await response.json()
    assert told["routerId"] == "r1"
    assert told["version"]
