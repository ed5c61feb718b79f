"""Streams through a router hold their slots to their ends, whatever these are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.calls import Calls
from router.forward import Router
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import types_pb2
from tests.shell.router.fakes import KEY, FakeReplica, running, table
from tests.shell.router.forwarding import ENDLESS, request, settled


async def test_a_stream_holds_its_slot_to_its_end(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)
    gate = asyncio.Event()

    async def items() -> AsyncIterator[types_pb2.Payload]:
        yield types_pb2.Payload(data=b"x")
        await gate.wait()
        yield types_pb2.Payload(data=b"y")

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        answers = calls.stream(KEY, request("stream"), items(), ENDLESS)
        assert (await anext(answers)).data == b"1"
        assert (await anext(answers)).data == b"x"
        other = asyncio.ensure_future(calls.unary(KEY, request("other"), ENDLESS))
        await settled()
        assert not other.done()
        gate.set()
        assert [answer.data async for answer in answers] == [b"y"]
        await other
    assert replica.served == ["stream", "other"]
    assert replica.load.held == 0


async def test_an_abandoned_stream_frees_its_slot(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)

    async def items() -> AsyncIterator[types_pb2.Payload]:
        await asyncio.Event().wait()
        yield types_pb2.Payload()

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        answers = calls.stream(KEY, request("stream"), items(), ENDLESS)
        await anext(answers)
        await answers.aclose()
        await calls.unary(KEY, request("next"), ENDLESS)
    assert replica.load.held == 0


async def test_an_error_of_the_callers_items_is_the_callers(router: Router, tasks: Supervisor) -> None:
    replica = FakeReplica(capacity=1)

    async def items() -> AsyncIterator[types_pb2.Payload]:
        yield types_pb2.Payload(data=b"x")
        raise LookupError("the caller's own")

    calls = Calls(router, tasks)
    async with running(replica):
        router.apply(table(1, replica))
        with pytest.raises(LookupError, match="the caller's own"):
            async for _ in calls.stream(KEY, request("stream"), items(), ENDLESS):
                pass
        await calls.unary(KEY, request("next"), ENDLESS)
    assert replica.load.held == 0
