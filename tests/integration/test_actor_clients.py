"""An actor's own gRPC service, called by clients that are not its handles: a plain channel, and a child process in Node.js."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import serve_core
from serve_core.launch import LocalCluster, LocalClusterConfig
from tests.shell.replica.adder import generated_in

pytestmark = pytest.mark.integration
HELPER = Path(__file__).with_name("actor_helper.mjs")
VALUES = [1, 2, 3]
ANSWERS = {"one": 3, "split": [0, 1, 2], "sum": 6, "each": [2, 4, 6]}

SOURCE = """
import asyncio
import json
import os
import subprocess

import grpc

import serve_core
from {module}_pb2 import Number
from {module}_pb2_grpc import AdderServicer, AdderStub


class Sums(AdderServicer):
    async def One(self, request, context):
        return request

    async def Split(self, request, context):
        for value in range(request.value):
            yield Number(value=value)

    async def Sum(self, requests, context):
        return Number(value=sum([request.value async for request in requests]))

    async def Each(self, requests, context):
        async for request in requests:
            yield Number(value=request.value * 2)

    async def pid(self) -> int:
        return os.getpid()


class Asking:
    def __init__(self):
        self.sums = serve_core.get_deployment_actor("sums", Sums)
        self.helper = subprocess.Popen(
            ["node", {helper!r}, {proto!r}, {package!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.endpoint = self.sums.endpoint_sync()
        self.restarted = asyncio.Event()

    async def on_actor_restarted(self, name, incarnation):
        before, self.endpoint = self.endpoint, await self.sums.endpoint()
        self.stale = self.endpoint._replace(metadata=before.metadata)
        self.restarted.set()

    async def follow(self):
        await self.restarted.wait()
        return self.endpoint.incarnation

    async def pid(self):
        return await self.sums.pid()

    def by_node(self, values, which):
        endpoint = getattr(self, which)
        asked = {{"address": endpoint.address, "metadata": dict(endpoint.metadata), "values": values}}
        print(json.dumps(asked), file=self.helper.stdin, flush=True)
        return json.loads(self.helper.stdout.readline())

    def by_stub(self, values, which):
        endpoint = getattr(self, which)
        with grpc.insecure_channel(endpoint.address) as channel:
            stub, metadata = AdderStub(channel), endpoint.metadata
            numbers = [Number(value=value) for value in values]
            try:
                return {{
                    "one": stub.One(numbers[-1], metadata=metadata).value,
                    "split": [one.value for one in stub.Split(numbers[-1], metadata=metadata)],
                    "sum": stub.Sum(iter(numbers), metadata=metadata).value,
                    "each": [one.value for one in stub.Each(iter(numbers), metadata=metadata)],
                }}
            except grpc.RpcError as error:
                return {{"code": error.code().name, "details": error.details()}}

    def shutdown(self):
        self.helper.stdin.close()
        self.helper.wait(50)


app = serve_core.deployment(Asking, cpus=0.1, actors=[serve_core.DeploymentActor("sums", Sums)]).bind()
"""


def app_in(tmp_path: Path, module: str, package: str) -> Any:
    name = f"asking_{module}"
    proto = tmp_path / f"{module}.proto"
    source = SOURCE.format(module=module, package=package, helper=str(HELPER), proto=str(proto))
    (tmp_path / f"{name}.py").write_text(source)
    return importlib.import_module(name).app


async def test_an_actor_is_called_by_a_plain_channel_and_from_another_language(tmp_path: Path) -> None:
    with generated_in(tmp_path) as generated:
        app = app_in(tmp_path, generated.module, generated.package)
    async with LocalCluster(LocalClusterConfig(cpus=2.0)) as cluster:
        controller = cluster.controller_address
        await serve_core.deploy(app, controller=controller, timeout_s=100.0)
        handle: Any = serve_core.get_handle("default", controller=controller)
        try:
            assert await handle.by_stub(VALUES, "endpoint") == ANSWERS
            assert await handle.by_node(VALUES, "endpoint") == ANSWERS
            os.kill(await handle.pid(), signal.SIGKILL)
            assert await handle.follow() == 2
            refused = await handle.by_stub(VALUES, "stale")
            assert refused["code"] == "FAILED_PRECONDITION"
            assert "meant for incarnation 1" in refused["details"]
            assert await handle.by_node(VALUES, "stale") == {"code": "FAILED_PRECONDITION", "reason": "ACTOR_FENCED"}
            assert await handle.by_stub(VALUES, "endpoint") == ANSWERS
            assert await handle.by_node(VALUES, "endpoint") == ANSWERS
        finally:
            await serve_core.close(controller)
