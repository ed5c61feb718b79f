from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from router.selection import Ticket
from serve_core.api import deployment
from serve_core.call_options import DEFAULT_TIMEOUT_S
from serve_core.context import RequestContext, bind_request_context, unbind_request_context
from serve_core.errors import ConfigInvalidError, MethodUnknownError
from serve_core.handle import DeploymentHandle
from serve_core.model.payload import Encoding, Payload
from serve_core.wire.codec import HandleRef, decode_value, encode_value


@dataclass
class Point:
    x: int
    y: int


class Target:
    async def move(self, point: Point, by: int) -> Point:
        return Point(point.x + by, point.y)

    async def path(self, length: int) -> AsyncIterator[Point]:
        for step in range(length):
            yield Point(step, 0)

    def __call__(self, text: str) -> str:
        return text


@dataclass
class Selection:
    slot_token: str


TICKET = Ticket(
    application="app",
    deployment="D",
    replica_id="r",
    address="h:1",
    slot_token=f"{'0' * 32}.1.r",
    slots=1,
    expire_time=1.0,
)


def packed(value: Any) -> Payload:
    return encode_value(value, like=Encoding.MSGPACK)


class FakeRouter:
    """Answers every call with what it was told to, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.items: list[Any] = []
        self.checked: list[tuple[str, str, Any]] = []

    def check_target(self, application: str, deployment: str, selection: Any) -> None:
        self.checked.append((application, deployment, selection))

    async def call(self, application: str, deployment: str, method: str, arguments: Payload, **how: Any) -> Payload:
        self.asked.append({"to": (application, deployment, method), "arguments": decode_value(arguments), **how})
        return packed(self.answers[0])

    async def dispatch(self, selection: Any, method: str, arguments: Payload, **how: Any) -> Payload:
        self.asked.append({"selection": selection, "method": method, "arguments": decode_value(arguments)})
        return packed(self.answers[0])

    async def dispatch_stream(
        self, selection: Any, method: str, arguments: Payload, **how: Any
    ) -> AsyncGenerator[Payload, None]:
        self.asked.append({"selection": selection, "method": method, "arguments": decode_value(arguments)})
        for answer in self.answers:
            yield packed(answer)

    async def stream(
        self,
        application: str,
        deployment: str,
        method: str,
        arguments: Payload,
        *,
        items: AsyncIterator[Payload] | None = None,
        **how: Any,
    ) -> AsyncGenerator[Payload, None]:
        self.asked.append({"to": (application, deployment, method), "arguments": decode_value(arguments), **how})
        if items is not None:
            async for item in items:
                self.items.append(decode_value(item))
        for answer in self.answers:
            yield packed(answer)

    @asynccontextmanager
    async def choose_replica(self, application: str, deployment: str, **how: Any) -> AsyncIterator[Selection]:
        self.asked.append({"to": (application, deployment), **how})
        yield Selection("token")


def handle_to(router: FakeRouter, *, target: type[Any] | None = None) -> DeploymentHandle[Any]:
    async def connect() -> Any:
        return router

    return DeploymentHandle("app", "D", connect=connect, target=target)


async def test_a_call_sends_its_arguments_and_gives_the_result() -> None:
    router = FakeRouter(5)
    handle = handle_to(router).options(timeout_s=3, slots=2, request_id="r1")
    assert await handle.add(2, right=3) == 5
    assert router.asked == [
        {
            "to": ("app", "D", "add"),
            "arguments": [[2], {"right": 3}],
            "timeout_s": 3,
            "slots": 2,
            "request_id": "r1",
        }
    ]


async def test_options_leave_the_handle_as_it_was() -> None:
    router = FakeRouter(1)
    handle = handle_to(router)
    handle.options(slots=3)
    await handle.add()
    assert (router.asked[0]["slots"], router.asked[0]["timeout_s"]) == (1, DEFAULT_TIMEOUT_S)


def test_options_that_no_call_can_have_are_refused_at_once() -> None:
    handle = handle_to(FakeRouter())
    with pytest.raises(ConfigInvalidError, match="slots: 0 is below 1"):
        handle.options(slots=0)
    with pytest.raises(ConfigInvalidError, match="timeout_s: is no number"):
        handle.choose_replica(timeout_s=float("nan"))


async def test_results_arrive_as_the_class_says() -> None:
    assert await handle_to(FakeRouter(Point(1, 2)), target=Target).move(Point(0, 2), 1) == Point(1, 2)
    assert await handle_to(FakeRouter(Point(1, 2))).move(Point(0, 2), 1) == {"x": 1, "y": 2}
    items = [item async for item in handle_to(FakeRouter(Point(0, 0), Point(1, 0)), target=Target).path(2)]
    assert items == [Point(0, 0), Point(1, 0)]


async def test_the_deployment_itself_can_be_called() -> None:
    router = FakeRouter("x")
    assert await handle_to(router, target=Target)("x") == "x"
    assert router.asked[0]["to"] == ("app", "D", "")


async def test_methods_with_taken_names_can_be_reached() -> None:
    router = FakeRouter(1)
    await handle_to(router).method("options")()
    assert router.asked[0]["to"] == ("app", "D", "options")


async def test_a_stream_among_the_arguments_is_sent_item_by_item() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    router = FakeRouter(3)
    assert await handle_to(router).add_all(7, numbers()) == 3
    assert router.asked[0]["arguments"] == [[7], {}]
    assert router.items == [0, 1, 2]
    echoed = [item async for item in handle_to(FakeRouter("a", "b")).echo(values=numbers())]
    assert echoed == ["a", "b"]


async def test_two_streams_are_too_many() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="at most one"):
        await handle_to(FakeRouter()).add(numbers(), numbers())


async def test_a_handle_is_sent_as_a_reference() -> None:
    router = FakeRouter(1)
    handle = handle_to(router)
    await handle.use(handle)
    assert router.asked[0]["arguments"] == [[HandleRef("app", "D")], {}]


async def test_a_handle_is_typed_by_a_decorated_class_too() -> None:
    decorated: Any = deployment(Target)
    handle = handle_to(FakeRouter({"x": 1, "y": 2})).typed(decorated)

    assert await handle.move(Point(0, 2), 1) == Point(1, 2)


async def test_a_chosen_replica_is_dispatched_to() -> None:
    router = FakeRouter(Point(1, 0))
    handle = handle_to(router, target=Target)
    async with handle.choose_replica(ttl_s=2, timeout_s=1, slots=3) as selection:
        assert await handle.dispatch(selection).move(Point(0, 0), 1) == Point(1, 0)
    assert router.asked[0] == {"to": ("app", "D"), "slots": 3, "ttl_s": 2, "timeout_s": 1, "request_id": ""}
    assert router.asked[1]["selection"] == Selection("token")
    assert router.checked == [("app", "D", Selection("token"))]
    items = [item async for item in handle.dispatch(str(TICKET)).path(1)]
    assert items == [Point(1, 0)]
    assert router.asked[2]["selection"] == TICKET
    with pytest.raises(ConfigInvalidError, match="the ticket"):
        handle.dispatch("token")


async def test_a_call_takes_no_longer_than_the_request_that_it_is_made_for() -> None:
    router = FakeRouter(1)
    bound = bind_request_context(RequestContext(request_id="r", remaining=lambda: 2.5))
    try:
        await handle_to(router).add()
        await handle_to(router).options(timeout_s=1).add()
        await handle_to(router).options(timeout_s=9).add()
    finally:
        unbind_request_context(bound)
    assert [asked["timeout_s"] for asked in router.asked] == [2.5, 1, 2.5]


async def test_a_call_that_returns_nothing_says_how_to_use_a_stream() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(MethodUnknownError, match="async for"):
        await handle_to(FakeRouter()).add(numbers())


async def test_wrong_use_is_explained() -> None:
    handle = handle_to(FakeRouter(1))
    with pytest.raises(TypeError, match="use 'async for'"):
        iter(handle.add())
    with pytest.raises(TypeError, match="no blocking result"):
        handle.add().result()
    with pytest.raises(TypeError, match="call it, as in"):
        await handle.add
    with pytest.raises(TypeError, match="not iterable"):
        iter(handle)
    with pytest.raises(AttributeError, match="no private methods"):
        _ = handle._secret
    call = handle.add()
    await call
    with pytest.raises(RuntimeError, match="awaited before"):
        await call


def test_a_call_that_is_never_awaited_is_warned_about() -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        handle_to(FakeRouter()).add(1)
