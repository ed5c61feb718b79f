"""``grpc.health.v1`` over real gRPC."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.runtime import health
from tests.shell.runtime.conftest import Running

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = 0, 1, 2, 3


def stub(running: Running) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(running.channel)


async def check(running: Running, service: str) -> int:
    response = await stub(running).Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


async def test_a_new_process_lives_and_is_not_ready_until_it_says_so(running: Running) -> None:
    assert await check(running, "liveness") == SERVING
    assert await check(running, "readiness") == NOT_SERVING
    assert await check(running, "") == NOT_SERVING

    running.standard.health.set_ready(ready=True)

    assert await check(running, "readiness") == SERVING
    assert await check(running, "") == SERVING


async def test_an_unknown_service_is_not_found(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(running, "no.such.Service")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no.such.Service" in str(caught.value.details())


async def test_a_watch_is_told_of_every_change_and_of_the_end(running: Running) -> None:
    told = running.standard.health
    watch = stub(running).Watch(health_pb2.HealthCheckRequest(service="a.Service"))

    assert (await watch.read()).status == SERVICE_UNKNOWN
    told.set("a.Service", serving=True)
    told.set("a.Service", serving=True)
    told.set("another.Service", serving=True)
    told.set("a.Service", serving=False)
    told.set("a.Service", serving=True)
    assert [(await watch.read()).status for _ in range(3)] == [SERVING, NOT_SERVING, SERVING]

    told.shut_down()
    told.set("a.Service", serving=True)
    assert (await watch.read()).status == NOT_SERVING
    assert await check(running, "a.Service") == NOT_SERVING
    watch.cancel()


async def test_stopping_tells_the_watchers_and_does_not_wait_for_them(running: Running) -> None:
    running.standard.health.set_ready(ready=True)
    watch = stub(running).Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watch.read()).status == SERVING

    await running.server.stop(grace_s=1000)

    assert (await watch.read()).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_slow_watcher_misses_old_changes_and_never_the_latest() -> None:
    servicer = health.HealthServicer()
    watch = servicer.Watch(health_pb2.HealthCheckRequest(service=""), NoContext())  # type: ignore[arg-type]
    first = await anext(watch)
    for turn in range(2 * health.CHANGES_MAX + 1):
        servicer.set("", serving=turn % 2 == 0)
    statuses = [first.status] + [(await anext(watch)).status for _ in range(health.CHANGES_MAX)]

    assert statuses[-1] == SERVING
    await watch.aclose()  # type: ignore[attr-defined]


class NoContext:
    """For a call that is never aborted."""
