"""Bad input gets one clear line with a reason and what to do, through every entrance, and changes nothing."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import grpc.aio
import pytest
import pytest_asyncio

import serve_core
from serve_core.errors import (
    ConfigInvalidError,
    DeploymentUnknownError,
    MessageTooLargeError,
    MethodUnknownError,
    ReplicaUnavailableError,
    ServeError,
    SlotUnknownError,
)
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.payload import Payload
from serve_core.v1 import replica_pb2, router_pb2
from serve_core.wire.codec import encode_arguments
from serve_core.wire.errors import decode_error
from serve_core.wire.payload import encode_payload
from tests.apps.worker import worker
from tests.integration.conftest import ROOT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("one cluster gets all bad input"),
]
LIMIT = 1024 * 1024
TIMEOUT_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[LocalCluster]:
    """One for all these tests: none of them may change anything."""
    async with LocalCluster(LocalClusterConfig(cpus=2.0, max_message_bytes=LIMIT)) as cluster:
        app = worker.options(working_dir=str(ROOT)).bind()
        await serve_core.deploy(app, name="crew", controller=cluster.controller_address, timeout_s=100.0)
        yield cluster


@asynccontextmanager
async def raw(address: str, method: str) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]:
    """A method that is called with bytes, whatever they are."""
    options = (("grpc.max_send_message_length", -1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel.unary_unary(method)


async def failure(address: str, method: str, request: bytes, **metadata: str) -> ServeError:
    async with raw(address, method) as call:
        keys = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request, timeout=TIMEOUT_S, metadata=keys)
    error = decode_error(caught.value)
    assert error is not None, caught.value
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    return error


def dispatch(method: str, arguments: Payload, *, application: str = "crew", slot_token: str = "") -> bytes:
    return router_pb2.RouterServiceDispatchRequest(
        application=application, method=method, arguments=encode_payload(arguments), slot_token=slot_token
    ).SerializeToString()


async def test_bad_requests_over_grpc(cluster: LocalCluster) -> None:
    router, path = cluster.router_address, "/serve_core.v1.RouterService/Dispatch"
    none = encode_arguments((), {})
    unknown_method = await failure(router, path, dispatch("wrok", none))
    assert isinstance(unknown_method, MethodUnknownError)
    assert "work" in unknown_method.message
    assert isinstance(await failure(router, path, dispatch("work", none, application="wrok")), DeploymentUnknownError)
    wrong_argument = await failure(router, path, dispatch("work", encode_arguments((), {"second": 1.0})))
    assert isinstance(wrong_argument, ConfigInvalidError)
    assert [violation.field for violation in wrong_argument.violations] == ["arguments.second"]
    assert isinstance(await failure(router, path, b"\xff\xff no protobuf"), ConfigInvalidError)
    assert isinstance(await failure(router, "/digits.v1.NoService/Classify", b""), MethodUnknownError)
    too_large = await failure(router, path, dispatch("size", encode_arguments((b"x" * (LIMIT + 1),), {})))
    assert isinstance(too_large, MessageTooLargeError)
    assert "--max-message-bytes" in too_large.message or str(LIMIT) in too_large.message


@pytest.mark.parametrize("token", ["garbage", "0" * 32, f"{'0' * 32}.1.nobody", f"{'0' * 32}.99999.x", "\x7f\x01'; --"])
async def test_garbage_in_a_token(cluster: LocalCluster, token: str) -> None:
    for path, request in (
        ("/serve_core.v1.RouterService/Dispatch", dispatch("work", encode_arguments((), {}), slot_token=token)),
        (
            "/serve_core.v1.RouterService/RenewSlot",
            router_pb2.RouterServiceRenewSlotRequest(slot_token=token).SerializeToString(),
        ),
    ):
        # A router knows a well-formed token only by its replica: that one may have existed.
        unknown = ReplicaUnavailableError if token.count(".") == 2 else SlotUnknownError
        assert isinstance(await failure(cluster.router_address, path, request), unknown)
    status = await serve_core.status("crew", controller=cluster.controller_address)
    replica = status.applications[0].deployments[0].replicas[0].replica
    request = replica_pb2.DispatchRequest(method="work", slot_token=token).SerializeToString()
    assert isinstance(
        await failure(replica.address, "/serve_core.v1.ReplicaService/Dispatch", request), SlotUnknownError
    )


async def test_bytes_that_are_no_text_in_a_token(cluster: LocalCluster) -> None:
    # Field 5 of the request is the token: these bytes are no UTF-8.
    request = dispatch("work", encode_arguments((), {})) + b"\x2a\x04\xff\xfe\xfd\xfc"
    error = await failure(cluster.router_address, "/serve_core.v1.RouterService/Dispatch", request)
    assert isinstance(error, ConfigInvalidError)


async def test_bad_requests_over_http(cluster: LocalCluster) -> None:
    async with aiohttp.ClientSession(f"http://{cluster.http_address}") as session:

        async def post(path: str, body: bytes) -> tuple[int, dict[str, str]]:
            async with session.post(path, data=io.BytesIO(body)) as response:
                return response.status, json.loads(await response.text())["error"]

        for path, body, expected in (
            ("/crew/wrok", b"", (501, "METHOD_UNKNOWN")),
            ("/nobody/do", b"", (404, "DEPLOYMENT_UNKNOWN")),
            ("/crew/work", b"{not json", (400, "CONFIG_INVALID")),
            ("/crew/work", b'{"seconds": "long"}', (400, "CONFIG_INVALID")),
            ("/crew/size", b'"' + b"x" * (LIMIT + 1) + b'"', (413, "MESSAGE_TOO_LARGE")),
        ):
            status, error = await post(path, body)
            assert (status, error["reason"]) == expected
            assert "\n" not in error["message"]
