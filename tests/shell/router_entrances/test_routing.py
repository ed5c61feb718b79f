"""Where calls that pass through go: retries, losses, tokens, names, drains."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from router import gate as gate_module
from serve_core.errors import (
    ConfigInvalidError,
    DeploymentUnavailableError,
    DrainingError,
    MethodUnknownError,
    NoSlotError,
    ReplicaDiedError,
    ReplicaUnavailableError,
    ServeError,
    SlotExpiredError,
    SlotUnknownError,
)
from serve_core.model.endpoints import TableChange, TableVersion
from serve_core.model.ids import DeploymentKey
from serve_core.wire.errors import decode_error
from tests.more_time import error_in_time
from tests.shell.router_entrances.harness import KEY, Entrance, entrance, fake_replica, route
from tests.shell.router_entrances.user_service import full

KINDS = ["unary", "count", "join", "chat"]


async def call(served: Entrance, kind: str, **options: Any) -> list[bytes]:
    async def requests() -> AsyncIterator[bytes]:
        yield b"1,0"

    match kind:
        case "unary":
            return [await served.unary(b"1,0", **options)]
        case "count":
            return [message async for message in served.count(b"1,0", **options)]
        case "join":
            return [await served.join(requests(), **options)]
        case _:
            return [message async for message in served.chat(requests(), **options)]


async def refused(served: Entrance, kind: str, **options: Any) -> ServeError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(served, kind, **options)
    error = decode_error(raised.value)
    assert error is not None, raised.value
    return error


@pytest.mark.parametrize("kind", ["unary", "count"])
@pytest.mark.parametrize("error", [full("r"), DrainingError("draining")])
async def test_a_refusal_is_tried_elsewhere(pair: Entrance, kind: str, error: ServeError) -> None:
    refusals = [error]
    for replica in pair.replicas:
        replica.echo.refusals = refusals
    assert len(await call(pair, kind, timeout=60)) == 1
    assert refusals == []
    assert [len(replica.echo.calls) for replica in pair.replicas] == [1, 1]
    assert pair.sample("serve_core_rejections_total", reason=error.reason) is None


@pytest.mark.parametrize("kind", ["unary", "count"])
async def test_a_call_that_everyone_refuses_waits_until_its_deadline(kind: str) -> None:
    asked: list[int] = []

    async def refused_by_all(timeout_s: float) -> None:
        # Others for each try: who is known to be full is not asked again.
        async with fake_replica("r1") as one, fake_replica("r2") as two, entrance(one, two) as pair:
            for replica in pair.replicas:
                replica.echo.refusals = [full(replica.replica_id)]
            try:
                await call(pair, kind, timeout=timeout_s)
            finally:
                asked[:] = [len(replica.echo.calls) for replica in pair.replicas]

    error = await error_in_time(refused_by_all, lambda _: asked == [1, 1])
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert asked == [1, 1]


async def test_a_refusal_after_the_first_answer_is_the_callers_to_know(served: Entrance) -> None:
    stream = served.count(b"1,0", metadata=(("act", "refuse-late"),))
    assert await stream.read() == b"0:"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert isinstance(decode_error(raised.value), DrainingError)
    assert len(served.echo.calls) == 1


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_replica_that_dies_with_the_request_inside_is_not_tried_again(pair: Entrance, kind: str) -> None:
    running = asyncio.ensure_future(refused(pair, kind, metadata=(("act", "hang"),)))
    first = [asyncio.ensure_future(replica.echo.entered.wait()) for replica in pair.replicas]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for replica, entered in zip(pair.replicas, first, strict=True):
        if entered.done():
            dead = replica.replica_id
            replica.wire.cut()
        entered.cancel()
    error = await running
    assert isinstance(error, ReplicaDiedError)
    assert error.details["replicaId"] == dead
    assert sum(len(replica.echo.calls) for replica in pair.replicas) == 1


async def test_streams_of_requests_reserve_first(served: Entrance) -> None:
    for number, kind in enumerate(("join", "chat")):
        await call(served, kind)
        assert served.echo.calls[number]["serve-core-slot"] == served.replicas[0].desk.issued[number]
        assert "serve-core-slots" not in served.echo.calls[number]
    assert served.replicas[0].desk.released == []
    assert served.sample("serve_core_slot_reservations_total", outcome="granted") == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_token_leads_to_its_replica(pair: Entrance, kind: str) -> None:
    for replica in (*pair.replicas, *pair.replicas):
        await call(pair, kind, metadata=(("serve-core-slot", replica.token),))
    for replica in pair.replicas:
        assert [seen["serve-core-slot"] for seen in replica.echo.calls] == [replica.token] * 2
        assert replica.desk.issued == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SlotExpiredError("over"), NoSlotError("full"), DrainingError("draining")])
async def test_a_token_is_never_tried_elsewhere(pair: Entrance, kind: str, error: ServeError) -> None:
    replica, other = pair.replicas
    replica.echo.refusals = [error]
    told = await refused(pair, kind, metadata=(("serve-core-slot", replica.token),))
    assert (type(told), told.message) == (type(error), error.message)
    assert (len(replica.echo.calls), len(other.echo.calls)) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_token_that_cannot_be_used_says_why(served: Entrance, kind: str) -> None:
    garbage = await refused(served, kind, metadata=(("serve-core-slot", "garbage"),))
    assert isinstance(garbage, SlotUnknownError)
    gone = await refused(served, kind, metadata=(("serve-core-slot", f"{'b' * 32}.1.r99"),))
    assert isinstance(gone, ReplicaUnavailableError)
    assert served.echo.calls == []


async def test_the_weight_of_a_call_reaches_the_replica(served: Entrance) -> None:
    await call(served, "unary", metadata=(("serve-core-slots", "3"),))
    assert served.echo.calls[0]["serve-core-slots"] == "3"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("serve-core-slots", "0"),
        ("serve-core-slots", "-1"),
        ("serve-core-slots", "many"),
        ("serve-core-slots", "9999999"),
        ("serve-core-compression", "brotli"),
    ],
)
async def test_metadata_that_makes_no_sense_is_refused(served: Entrance, key: str, value: str) -> None:
    error = await refused(served, "unary", metadata=((key, value),))
    assert isinstance(error, ConfigInvalidError)
    assert error.violations[0].field == key
    assert served.echo.calls == []


async def test_an_unknown_service_is_told_what_there_is(served: Entrance) -> None:
    unary: Any = served.channel.unary_unary("/test.v1.Nothing/Call")
    stream: Any = served.channel.stream_stream("/test.v1.Nothing/Call")
    for awaitable in (unary(b""), stream().read()):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await awaitable
        error = decode_error(raised.value)
        assert isinstance(error, MethodUnknownError), raised.value
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details["known"] == "test.v1.Echo"
    assert served.sample("grpc_server_call_started_total", grpc_method="other") == 2


async def test_an_unknown_method_is_told_what_there_is(served: Entrance) -> None:
    method: Any = served.channel.unary_unary("/test.v1.Echo/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await method(b"")
    error = decode_error(raised.value)
    assert isinstance(error, MethodUnknownError)
    assert error.details["known"] == "Chat, Count, Join, Unary"


async def test_a_service_of_two_applications_needs_the_applications_name(served: Entrance) -> None:
    other = DeploymentKey("market", "echo")
    served.router.apply(TableChange(version=TableVersion("e", 2), snapshot=False, upserted_deployments=(route(other),)))
    error = await refused(served, "unary")
    assert isinstance(error, ConfigInvalidError)
    assert error.violations[0].field == "serve-core-app"
    assert "market, shop" in error.message
    await call(served, "unary", metadata=(("serve-core-app", "shop"),))
    unknown = await refused(served, "unary", metadata=(("serve-core-app", "zoo"),))
    assert isinstance(unknown, MethodUnknownError)
    assert "market, shop" in unknown.message


async def test_an_unavailable_deployment_is_refused_at_once(served: Entrance) -> None:
    gone = route(KEY, available=False, message="the constructor raised")
    served.router.apply(TableChange(version=TableVersion("e", 2), snapshot=False, upserted_deployments=(gone,)))
    error = await refused(served, "unary")
    assert isinstance(error, DeploymentUnavailableError)
    assert "the constructor raised" in error.message


@pytest.mark.parametrize("kind", KINDS)
async def test_before_the_first_table_calls_are_held(kind: str) -> None:
    async with fake_replica("r1") as replica, entrance(replica, opened=False) as served:
        waiting = asyncio.ensure_future(call(served, kind, timeout=60))
        async with asyncio.timeout(60):
            while not served.gate.held:
                await asyncio.wait((waiting,), timeout=0.001)
        served.gate.open()
        opened = await call(served, kind)
        assert await waiting == opened


@pytest.mark.parametrize("kind", KINDS)
async def test_a_held_call_is_refused_with_its_reason_when_no_table_comes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HOLD_TIMEOUT_S", 0.01)
    async with fake_replica("r1") as replica, entrance(replica, opened=False) as served:
        error = await refused(served, kind)
        assert isinstance(error, DeploymentUnavailableError)
        assert "has not heard from a controller" in error.message
        assert served.gate.held == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_draining_router_refuses_new_calls_and_finishes_those_inside(served: Entrance, kind: str) -> None:
    running = asyncio.ensure_future(call(served, kind, metadata=(("act", "hang"),)))
    await served.echo.entered.wait()
    served.gate.close()
    error = await refused(served, kind)
    assert isinstance(error, DrainingError)
    assert "router-1" in error.message
    served.echo.go_on.set()
    assert len(await running) == 1
    assert await served.gate.drained(30)
    assert served.sample("serve_core_rejections_total", reason="DRAINING") == 1
