"""Server reflection over real gRPC, both versions, as a client library asks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serve_core.runtime.channel import open_channel
from serve_core.runtime.descriptors import DescriptorIndex
from serve_core.runtime.reflection import V1_SERVICE, V1ALPHA_SERVICE
from tests.shell.runtime.conftest import Running

VERSIONS = (V1_SERVICE, V1ALPHA_SERVICE)
HEALTH_METHODS = sorted(health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name)


def call(channel: grpc.aio.Channel, version: str) -> Any:
    return channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()


async def ask(running: Running, version: str, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stream = call(running.channel, version)
    await stream.write(reflection_pb2.ServerReflectionRequest(**request))
    response = await stream.read()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    return response


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_servers_own_services_are_listed(running: Running, version: str) -> None:
    response = await ask(running, version, list_services="")

    names = [service.name for service in response.list_services_response.service]
    assert names == ["grpc.health.v1.Health", V1_SERVICE, V1ALPHA_SERVICE]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_pool_can_be_built_of_every_listed_service(running: Running, version: str) -> None:
    listed = (await ask(running, version, list_services="")).list_services_response.service
    pool = descriptor_pool.DescriptorPool()
    for service in listed:
        response = await ask(running, version, file_containing_symbol=service.name)
        for raw in reversed(response.file_descriptor_response.file_descriptor_proto):
            pool.AddSerializedFile(raw)

    methods = pool.FindServiceByName(V1_SERVICE).methods_by_name
    assert methods["ServerReflectionInfo"].input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"
    assert sorted(pool.FindServiceByName("grpc.health.v1.Health").methods_by_name) == HEALTH_METHODS


async def test_several_requests_of_one_stream_are_answered_in_turn(running: Running) -> None:
    stream = call(running.channel, V1_SERVICE)
    for name in ("grpc/reflection/v1/reflection.proto", "absent.proto"):
        await stream.write(reflection_pb2.ServerReflectionRequest(file_by_filename=name))

    kinds = [(await stream.read()).WhichOneof("message_response") for _ in range(2)]

    assert kinds == ["file_descriptor_response", "error_response"]
    await stream.done_writing()


async def test_services_that_come_and_go_are_told(running: Running) -> None:
    proto = descriptor_pb2.FileDescriptorProto(name="user.proto", package="user.v1")
    proto.service.add(name="Svc")
    table = running.standard.reflection

    table.put("app", DescriptorIndex(["user.v1.Svc"], [proto]))
    response = await ask(running, V1_SERVICE, file_containing_symbol="user.v1.Svc")
    assert list(response.file_descriptor_response.file_descriptor_proto) == [proto.SerializeToString()]

    table.remove("app")
    response = await ask(running, V1_SERVICE, file_containing_symbol="user.v1.Svc")
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_grpcios_own_client_understands_it(running: Running) -> None:
    def through_the_library() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(running.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            methods = pool.FindServiceByName("grpc.health.v1.Health").methods
            return sorted(database.get_services()), sorted(method.name for method in methods)

    services, methods = await asyncio.to_thread(through_the_library)

    assert services == ["grpc.health.v1.Health", V1_SERVICE, V1ALPHA_SERVICE]
    assert methods == HEALTH_METHODS


async def test_stopping_ends_a_stream_that_the_client_keeps_open(running: Running) -> None:
    async with open_channel(running.address) as channel:
        stream = call(channel, V1_SERVICE)
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await stream.read()

        await running.server.stop(grace_s=1000)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
