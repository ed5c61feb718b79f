from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from serve_core.runtime import clock
from serve_core.runtime.direct import DirectHandler
from serve_core.runtime.served import ServedCall
from serve_core.runtime.served_context import Metadata


class Told(ServedCall):
    """A call that nothing carries: it keeps the code that it ends with."""

    def __init__(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop, method="/any/one", metadata=(), deadline=deadline, running=set())
        self.ended: list[Any] = []

    async def _receive(self) -> bytes | None:
        return None

    async def _send_message(self, raw: bytes, *, compressed: bool) -> None:
        """Nobody hears."""

    async def _send_headers(self, metadata: Metadata) -> None:
        """Nobody hears."""

    def _send_status(self, code: Any, details: str, trailers: Metadata, raw: bytes | None = None) -> None:
        self._status_sent = True
        self.ended.append((code, raw))

    def _is_gone(self) -> bool:
        return False

    async def run(self, handler: Any) -> None:
        self._begin(handler)
        self._serve_request(b"x")
        if self._task is not None:
            await self._task


@pytest.mark.parametrize("left_s", [-1.0, 60.0, float("inf")])
async def test_a_call_whose_time_is_over_is_not_run(left_s: float) -> None:
    async def one(request: bytes, context: Any) -> bytes:
        return request + b"y"

    call = Told(clock.wall() + left_s)
    await call.run(grpc.unary_unary_rpc_method_handler(one))
    over = left_s < 0
    assert call.ended == [(grpc.StatusCode.DEADLINE_EXCEEDED, None) if over else (None, b"xy")]


def directly(begin: Any) -> DirectHandler:
    async def never(request: bytes, context: Any) -> bytes:
        raise AssertionError

    return DirectHandler(never, begin)


async def test_a_direct_handler_answers_without_a_task() -> None:
    call = Told(float("inf"))
    over: list[Any] = []

    def begin(request: bytes, of: ServedCall) -> None:
        of.add_done_callback(over.append)
        of.wait(lambda: None)

    await call.run(directly(begin))
    assert (call.ended, over) == ([], [])
    call.answer(b"y", ())
    assert (call.ended, over) == ([(None, b"y")], [call])
    assert call._task is None


async def test_a_direct_handler_may_go_on_as_a_coroutine() -> None:
    async def late() -> bytes:
        await asyncio.sleep(0)
        return b"late"

    call = Told(float("inf"))
    await call.run(directly(lambda _, of: of.go_on(late())))
    assert call.ended == [(None, b"late")]


async def test_a_direct_handler_that_raises_fails_its_call_alone() -> None:
    def begin(request: bytes, of: ServedCall) -> None:
        raise RuntimeError("begin")

    call = Told(float("inf"))
    await call.run(directly(begin))
    assert call.ended == [(grpc.StatusCode.UNKNOWN, None)]


async def test_a_direct_handler_learns_once_that_nobody_waits_any_more() -> None:
    gone: list[str] = []
    call = Told(float("inf"))
    await call.run(directly(lambda _, of: of.wait(lambda: gone.append("gone"))))
    call._serve_cancelled()
    call._serve_cancelled()
    assert gone == ["gone"]
    assert call.cancelled()

    answered = Told(float("inf"))
    await answered.run(directly(lambda _, of: of.wait(lambda: gone.append("too late"))))
    answered.answer(b"y", ())
    answered._serve_cancelled()
    assert gone == ["gone"]
