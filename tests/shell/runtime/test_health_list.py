"""``List`` of ``grpc.health.v1``, which grpcio-health-checking has from 1.85."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serve_core.runtime import health
from tests.shell.runtime.conftest import Running

SERVING, NOT_SERVING = 1, 2


def stub(running: Running) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(running.channel)


async def test_list_tells_of_all_services(running: Running) -> None:
    running.standard.health.set("a.Service", serving=True)

    response = await stub(running).List(health_pb2.HealthListRequest())

    assert {name: status.status for name, status in response.statuses.items()} == {
        "": NOT_SERVING,
        "liveness": SERVING,
        "readiness": NOT_SERVING,
        "a.Service": SERVING,
    }


async def test_a_list_that_is_too_long_is_refused(running: Running) -> None:
    for number in range(health.LIST_MAX):
        running.standard.health.set(f"s{number}", serving=True)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(running).List(health_pb2.HealthListRequest())

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
