"""A controller that only tells tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from serve_core.model.endpoints import DeploymentRoute, TableChange, TableVersion
from serve_core.model.replica import Replica
from serve_core.v1 import controller_pb2
from serve_core.wire.endpoints import encode_table_change


class FakeController:
    """Sends what is put into ``tables`` to whoever watches; keeps what it is told."""

    def __init__(self) -> None:
        self.tables: asyncio.Queue[TableChange] = asyncio.Queue()
        self.first: TableChange | None = None
        """What each that subscribes is sent at once."""
        self.told: list[Any] = []
        self.acknowledged = asyncio.Event()
        self.subscribed = asyncio.Semaphore(0)
        """Released once for each subscription."""
        self.address = ""

    def publish(self, version: int, *routes: DeploymentRoute, replicas: tuple[Replica, ...] = ()) -> None:
        self.acknowledged.clear()
        self.tables.put_nowait(whole_table(version, *routes, replicas=replicas))

    async def WatchEndpoints(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.told.append(await anext(requests))
        self.subscribed.release()
        if self.first is not None:
            yield encode_table_change(self.first)
            self.told.append(await anext(requests))
        while True:
            yield encode_table_change(await self.tables.get())
            self.told.append(await anext(requests))
            self.acknowledged.set()


def whole_table(version: int, *routes: DeploymentRoute, replicas: tuple[Replica, ...] = ()) -> TableChange:
    """A table with just these."""
    return TableChange(
        version=TableVersion("e", version), snapshot=True, upserted_deployments=routes, upserted_replicas=replicas
    )


@asynccontextmanager
async def fake_controller() -> AsyncIterator[FakeController]:
    controller = FakeController()
    server = grpc.aio.server()
    watch = grpc.stream_stream_rpc_method_handler(
        controller.WatchEndpoints,
        request_deserializer=controller_pb2.WatchEndpointsRequest.FromString,
        response_serializer=controller_pb2.WatchEndpointsResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("serve_core.v1.ControllerService", {"WatchEndpoints": watch})
    server.add_generic_rpc_handlers([service])
    controller.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield controller
    finally:
        await server.stop(0)
