"""A whole router with its servers, between a controller that only tells tables and in-process replicas."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router import gate
from router.app import RouterApp
from router.config import RouterConfig
from serve_core.errors import DeploymentUnavailableError, DrainingError, PortTakenError
from serve_core.model.endpoints import DeploymentRoute
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import Method, MethodKind, UserService
from serve_core.runtime.descriptors import serialize_files
from serve_core.runtime.supervisor import Supervisor
from serve_core.v1 import router_pb2, router_pb2_grpc, types_pb2
from serve_core.wire.errors import decode_error
from tests.shell.router_entrances.fake_controller import FakeController, fake_controller
from tests.shell.router_entrances.harness import FakeReplica, fake_replica, replica_value, route

HEALTH = "grpc.health.v1.Health"
METHODS = (Method("echo", MethodKind.UNARY), Method("each", MethodKind.SERVER_STREAM))
SERVING, NOT_SERVING = 1, 2


@dataclass
class Cluster:
    app: RouterApp
    controller: FakeController
    replica: FakeReplica
    channel: grpc.aio.Channel
    session: aiohttp.ClientSession

    async def health(self, service: str) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(f"http://{self.app.http_address}{path}") as response:
            return response.status, await response.text()

    async def post(self, path: str, body: bytes = b"") -> tuple[int, str]:
        async with self.session.post(f"http://{self.app.http_address}{path}", data=body) as response:
            return response.status, await response.text()

    async def publish(self, version: int, *routes: DeploymentRoute) -> None:
        self.controller.publish(version, *routes, replicas=(replica_value(self.replica),))
        await self.controller.acknowledged.wait()

    def echo(self, **options: Any) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary("/test.v1.Echo/Unary")
        return method(b"hello", **options)


def config(controller: str, **changes: Any) -> RouterConfig:
    fields: dict[str, Any] = {
        "router_id": "router-1",
        "port": 0,
        "http_port": 0,
        "drain_timeout_s": 10.0,
        "quiet_s": 0.0,
    }
    return RouterConfig(controller=controller, **(fields | changes))


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Cluster]:
    async with (
        fake_replica("r1") as replica,
        fake_controller() as controller,
        Supervisor("router under test") as tasks,
        aiohttp.ClientSession() as session,
    ):
        app = RouterApp(config(controller.address, **changes), tasks)
        await app.start()
        async with grpc.aio.insecure_channel(app.address) as channel:
            yield Cluster(app, controller, replica, channel, session)
        await app.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with running() as cluster:
        yield cluster


async def test_before_the_first_table_it_lives_and_is_not_ready(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOLD_TIMEOUT_S", 0.01)
    assert (await cluster.get("/livez"))[0] == 200
    assert await cluster.get("/readyz?verbose") == (
        503,
        "[-]table failed\n[+]taking requests ok\nreadyz check failed\n",
    )
    assert await cluster.health("liveness") == SERVING
    assert await cluster.health("readiness") == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await cluster.echo()
    assert isinstance(decode_error(raised.value), DeploymentUnavailableError)
    assert (await cluster.post("/shop/echo"))[0] == 503
    stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(cluster.channel)
    told = await stub.GetRouter(router_pb2.GetRouterRequest())
    assert (told.router_id, told.table_version) == ("router-1", 0)


async def test_calls_from_before_the_first_table_are_answered_once_it_is_there(cluster: Cluster) -> None:
    calls = asyncio.gather(cluster.echo(), cluster.post("/shop/echo", b"[1]"))
    async with asyncio.timeout(60):
        while cluster.app._gate.held < 2:
            await asyncio.wait((calls,), timeout=0.001)
    assert (await cluster.get("/readyz"))[0] == 503
    await cluster.publish(7, route(methods=METHODS))
    echoed, posted = await calls
    assert (echoed, posted) == (b"hello", (200, "[1]"))


async def test_with_a_table_everything_is_served(cluster: Cluster) -> None:
    await cluster.publish(7, route(methods=METHODS))
    assert await cluster.echo() == b"hello"
    assert await cluster.post("/shop/echo", b"[1]") == (200, "[1]")
    assert await cluster.post("/shop/echo/each", b"[1]") == (200, "data: [1]\n\nevent: end\ndata:\n\n")
    assert (await cluster.get("/readyz"))[0] == 200
    for service in ("", "readiness", "serve_core.v1.RouterService", "test.v1.Echo"):
        assert await cluster.health(service) == SERVING
    first, last = cluster.controller.told[0], cluster.controller.told[-1]
    assert (first.router_id, first.address, first.http_address) == (
        "router-1",
        cluster.app.address,
        cluster.app.http_address,
    )
    assert last.acknowledged.version == 7


async def test_dispatch_through_the_routers_own_service_is_counted(cluster: Cluster) -> None:
    await cluster.publish(7, route(methods=METHODS))
    stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(cluster.channel)
    payload = types_pb2.Payload(encoding=types_pb2.PAYLOAD_ENCODING_JSON, data=b"[1]")
    request = router_pb2.RouterServiceDispatchRequest(application="shop", method="echo", arguments=payload)
    assert (await stub.Dispatch(request)).result == payload
    stream = stub.DispatchStream(iter([router_pb2.RouterServiceDispatchStreamRequest(open=request)]))
    assert [answer.item async for answer in stream] == [payload]
    await stub.ReserveSlot(router_pb2.RouterServiceReserveSlotRequest(application="shop"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.ReserveSlot(router_pb2.RouterServiceReserveSlotRequest(application="zoo"))
    metrics = ""
    while "deployment_unknown" not in metrics:  # A call is counted a moment after it was answered.
        _, metrics = await cluster.get("/metrics")
    for line in (
        'grpc_server_call_started_total{grpc_method="/serve_core.v1.RouterService/Dispatch"} 1.0',
        'grpc_server_call_started_total{grpc_method="/serve_core.v1.RouterService/DispatchStream"} 1.0',
        'serve_core_slot_reservations_total{outcome="granted"} 1.0',
        'serve_core_slot_reservations_total{outcome="deployment_unknown"} 1.0',
        'serve_core_queue_depth{application="shop",deployment="echo"} 0.0',
        'serve_core_router_gangs{application="shop",deployment="echo",state="whole"} 1.0',
        'serve_core_router_replica_ongoing{application="shop",deployment="echo",gang="gang-r1",rank="0",replica="r1"} 0.0',
        "serve_core_router_table_version 7.0",
    ):
        assert line in metrics


async def test_health_and_reflection_follow_the_table(cluster: Cluster) -> None:
    files = serialize_files([HEALTH])
    mine = UserService(HEALTH, (Method("Check", MethodKind.UNARY),))
    with_files = route(DeploymentKey("shop", "described"), ingress=False, services=(mine,), file_descriptor_set=files)
    garbage = route(
        DeploymentKey("shop", "garbage"),
        ingress=False,
        services=(UserService("test.v1.Odd", ()),),
        file_descriptor_set=b"\xff",
    )
    await cluster.publish(1, route(), with_files, garbage)
    assert {"test.v1.Echo", "test.v1.Odd", "serve_core.v1.RouterService"} <= await reflected(cluster)
    await cluster.publish(2, route(available=False, message="broken"))
    assert await cluster.health("test.v1.Echo") == NOT_SERVING
    assert await cluster.health("test.v1.Odd") == NOT_SERVING
    assert "test.v1.Odd" not in await reflected(cluster)
    assert await cluster.health("") == SERVING


async def reflected(cluster: Cluster) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cluster.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    response = await call.read()
    call.cancel()
    return {service.name for service in response.list_services_response.service}


async def test_while_it_leaves_it_says_so_and_serves_as_before(cluster: Cluster) -> None:
    await cluster.publish(1, route(methods=METHODS))
    assert await cluster.echo() == b"hello"
    draining = asyncio.ensure_future(cluster.app.drain())
    await asyncio.sleep(0)
    for service in ("", "readiness", "serve_core.v1.RouterService", "test.v1.Echo"):
        assert await cluster.health(service) == NOT_SERVING
    assert await cluster.health("liveness") == SERVING
    assert await cluster.get("/readyz?verbose") == (
        503,
        "[+]table ok\n[-]taking requests failed\nreadyz check failed\n",
    )
    assert (await cluster.get("/livez"))[0] == 200
    assert await cluster.echo() == b"hello"
    async with grpc.aio.insecure_channel(cluster.app.address, options=[("grpc.use_local_subchannel_pool", 1)]) as new:
        method: Any = new.unary_unary("/test.v1.Echo/Unary")
        assert await method(b"new") == b"new"
    async with cluster.session.post(f"http://{cluster.app.http_address}/shop/echo", data=b"[1]") as response:
        assert (response.status, response.headers["Connection"]) == (200, "close")
    await cluster.publish(2, route(methods=METHODS))
    assert await cluster.health("") == NOT_SERVING
    assert not draining.done()
    await cluster.channel.close()
    await draining
    with pytest.raises(aiohttp.ClientConnectorError):
        await cluster.get("/livez")


async def test_callers_that_stay_are_told_to_go_and_what_runs_finishes() -> None:
    async with running(linger_timeout_s=0.0) as cluster:
        await cluster.publish(1, route(methods=METHODS))
        await cluster.get("/livez")
        call = asyncio.ensure_future(_result(cluster.echo(metadata=(("act", "hang"),))))
        await cluster.replica.echo.entered.wait()
        draining = asyncio.ensure_future(cluster.app.drain())
        await asyncio.sleep(0)
        assert await cluster.health("") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await cluster.echo()
        assert isinstance(decode_error(raised.value), DrainingError)
        stub: router_pb2_grpc.RouterServiceAsyncStub = router_pb2_grpc.RouterServiceStub(cluster.channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ReserveSlot(router_pb2.RouterServiceReserveSlotRequest(application="shop"))
        assert isinstance(decode_error(raised.value), DrainingError)
        assert (await cluster.post("/shop/echo"))[0] == 503
        assert not draining.done()
        cluster.replica.echo.go_on.set()
        assert await call == b"hello"
        await draining


async def test_a_drain_ends_with_its_budget() -> None:
    async with running(drain_timeout_s=0.05) as cluster:
        await cluster.publish(1, route())
        call = asyncio.ensure_future(_result(cluster.echo(metadata=(("act", "hang"),))))
        await cluster.replica.echo.entered.wait()
        await cluster.app.drain()
        await cluster.app.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE, "what a caller may retry if it wants"
        await cluster.replica.echo.cancelled.wait()


async def _result(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> bytes:
    return await call


@pytest.mark.parametrize(("field", "named"), [("port", "for gRPC (--port)"), ("http_port", "for HTTP (--http-port)")])
async def test_a_port_that_is_taken_is_named(field: str, named: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Supervisor("router under test") as tasks:
            app = RouterApp(config("127.0.0.1:1", **{field: port}), tasks)
            with pytest.raises(PortTakenError) as raised:
                await app.start()
            await app.close()
    assert named in raised.value.message
    assert f"127.0.0.1:{port}" in raised.value.message
