"""A replica and the lives of its actor, in one process: a test decides which life there is, and who knows of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import serve_core
from serve_core.actor_handle import ActorHandle
from serve_core.model.actor import ActorAssignment, ActorEndpoint, ActorSpec
from serve_core.model.ids import ReplicaId
from serve_core.model.replica import Failure, ReplicaPhase
from serve_core.model.spec import DeploymentSpec
from serve_core.wire.actors import encode_actor_directory
from tests.shell.replica.support import REPLICA_ID, WAIT_S, Running, attached, spec_of

NOBODY = "127.0.0.1:9"

ACTOR_SOURCE = """
import asyncio
from collections.abc import AsyncIterator

import serve_core


class Counter:
    def __init__(self):
        self.count = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()

    async def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def pair(self, numbers: tuple[int, int]) -> tuple[int, int]:
        return numbers[::-1]

    async def upto(self, number: int) -> AsyncIterator[int]:
        for one in range(number):
            yield one
        if number > 3:
            self.begun.set()
            await self.gate.wait()

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def wait(self):
        self.begun.set()
        await self.gate.wait()
        return self.count

    async def until_begun(self):
        await self.begun.wait()

    async def fail(self):
        raise LookupError("as asked")

    async def request(self):
        context = serve_core.get_request_context()
        return [context.request_id, context.time_remaining()]

    async def __call__(self, word: str) -> str:
        return word.upper()

    async def name(self):
        return "taken"
"""

SERVICE_SOURCE = """
import asyncio
import grpc
from {module}_pb2 import Number
from {module}_pb2_grpc import AdderServicer


class Counter(AdderServicer):
    def __init__(self):
        self.begun = asyncio.Event()

    async def One(self, request, context):
        if request.value == 2:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "twice")
        if request.value == 3:
            self.begun.set()
            await asyncio.Event().wait()
        metadata = dict(context.invocation_metadata())
        return Number(value=request.value + int(metadata.get("more", 0)))

    async def Split(self, request, context):
        for value in range(request.value):
            yield Number(value=value)
        if request.value > 3:
            await asyncio.Event().wait()

    async def Sum(self, requests, context):
        return Number(value=sum([request.value async for request in requests]))

    async def Each(self, requests, context):
        async for request in requests:
            await context.write(Number(value=request.value * 2))

    async def until_begun(self):
        await self.begun.wait()
"""

REPLICA_SOURCE = """
import asyncio

import serve_core


class App:
    def __init__(self):
        self.counter = serve_core.get_deployment_actor("counter")
        self.restarts = []

    def on_actor_restarted(self, name, incarnation):
        if incarnation == 13:
            raise RuntimeError("cannot do without 12")
        self.restarts.append([name, incarnation])

    async def told(self):
        return self.restarts

    async def add(self):
        return await self.counter.add()

    def add_in_thread(self):
        return self.counter.add.call_sync(2)

    def add_in_another_loop(self):
        return asyncio.run(self._add())

    async def _add(self):
        return await self.counter.add()

    async def add_wrongly(self):
        self.counter.add.call_sync()

    async def request(self):
        return await self.counter.options(timeout_s=1000).request()


class Asks(App):
    def __init__(self):
        super().__init__()
        self.first = self.counter.add.call_sync()
"""


class Cluster:
    """A replica, and the lives of an actor that it is told of."""

    def __init__(self, tmp_path: Path, source: str) -> None:
        self._spec = spec_of(tmp_path, source, "Counter")
        self._stack = AsyncExitStack()
        self.replica: Running | None = None

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def life(self, incarnation: int, *, told: bool = True) -> Running:
        """Begins a life, and tells the replica of it."""
        actors = (ActorSpec(name="counter", import_path="x:y"),)
        spec = DeploymentSpec(
            name="dep", import_path=self._spec.import_path, working_dir=self._spec.working_dir, actors=actors
        )
        assignment = ActorAssignment(name="counter", incarnation=incarnation)
        running = await self._stack.enter_async_context(attached(spec, actor=assignment))
        await running.controller.phase(ReplicaPhase.READY)
        if told:
            self.tell(incarnation, running.app.state.replica.address)
        return running

    async def begin(self, spec: DeploymentSpec) -> Running:
        """Begins the replica."""
        self.replica = await self._stack.enter_async_context(attached(spec))
        return self.replica

    def tell(
        self, incarnation: int, address: str = "", *, replica_id: str = REPLICA_ID, given_up: str = "", why: str = ""
    ) -> None:
        """Tells the replica where the actor is."""
        assert self.replica is not None
        endpoint = ActorEndpoint(
            name="counter",
            incarnation=incarnation,
            address=address,
            given_up=given_up,
            replica_id=ReplicaId(replica_id if address else ""),
            failure=Failure(reason="REPLICA_DIED", message=why) if why else None,
        )
        self.replica.controller.send(actors=encode_actor_directory([endpoint]))


def app_of(tmp_path: Path, target: str = "App") -> DeploymentSpec:
    actors = (ActorSpec(name="counter", import_path="x:y"), ActorSpec(name="tree", import_path="x:y"))
    return spec_of(tmp_path, REPLICA_SOURCE, target, actors=actors)


@asynccontextmanager
async def cluster_of(tmp_path: Path, source: str = ACTOR_SOURCE) -> AsyncIterator[tuple[Cluster, ActorHandle[Any]]]:
    """A replica that serves, and a handle as its user code has it."""
    async with Cluster(tmp_path, source) as cluster:
        replica = await cluster.begin(app_of(tmp_path))
        await replica.controller.phase(ReplicaPhase.READY)
        yield cluster, serve_core.get_deployment_actor("counter").options(timeout_s=WAIT_S)


async def known(cluster: Cluster, handle: ActorHandle[Any], incarnation: int) -> None:
    """Waits until the replica knows of a life."""
    assert cluster.replica is not None
    while handle.incarnation != incarnation:
        await cluster.replica.call("told")


async def items_of(*items: int) -> AsyncIterator[int]:
    for item in items:
        yield item


async def answer_of(call: Any) -> Any:
    return await call


async def all_of(call: Any) -> list[Any]:
    return [item async for item in call]
