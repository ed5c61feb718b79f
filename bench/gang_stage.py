"""A machine that is divided into nodes, and gangs on it that things are done to while they serve."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import msgspec

from bench.ganged_app import ganged
from bench.operating import APPLICATION, ROOT, Operator
from bench.steady import SteadyLoad
from serve_core.api import build
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.ids import GangId
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import DeploymentStatus, ReplicaStatus
from serve_core.v1 import router_pb2, router_pb2_grpc

MEMBER_CPUS = 0.1
SOME_CALLS = 30
LOOK_EVERY_S = 0.02
TIMEOUT_S = 60.0


def nodes_file(folder: Path, room: Mapping[str, int]) -> Path:
    """A file of nodes by how many members each has room for; every one has its id as the label ``name``."""
    nodes = [
        {"id": name, "labels": {"name": name}, "resources": {"cpus": round(count * MEMBER_CPUS, 4)}}
        for name, count in room.items()
    ]
    path = folder / "nodes.yaml"
    path.write_bytes(msgspec.yaml.encode({"nodes": nodes}))
    return path


def ganged_spec(version: int, *arguments: Any, **options: Any) -> ApplicationSpec:
    """``Ganged`` at a version, as the application ``steady``."""
    return build(ganged.options(working_dir=str(ROOT), **options).bind(version, *arguments), APPLICATION)


def gangs_of(deployment: DeploymentStatus) -> Mapping[GangId, tuple[ReplicaStatus, ...]]:
    """The replicas of each gang, by rank."""
    found: dict[GangId, list[ReplicaStatus]] = {}
    for one in deployment.replicas:
        found.setdefault(one.replica.gang.gang_id, []).append(one)
    return {
        gang_id: tuple(sorted(members, key=lambda member: member.replica.gang.rank))
        for gang_id, members in found.items()
    }


class GangStage:
    """One cluster on virtual nodes, as an async context manager.

    Args:
        folder: For files.
        room: The nodes: how many members each has room for, by its id.
    """

    def __init__(self, folder: Path, room: Mapping[str, int]) -> None:
        config = LocalClusterConfig(nodes=nodes_file(folder, room), drain_timeout_s=10.0, restart=True)
        self.cluster = LocalCluster(config)
        self._opened = AsyncExitStack()
        self._operator: Operator | None = None

    @property
    def operator(self) -> Operator:
        """Connected to the controller."""
        assert self._operator is not None
        return self._operator

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            await opened.enter_async_context(self.cluster)
            self._operator = await opened.enter_async_context(Operator(self.cluster.controller_address))
            self._opened = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def serve(self, version: int, *arguments: Any, **options: Any) -> DeploymentStatus:
        """Deploys a version, and waits until all of it is ready."""
        return await self.operator.until_whole(await self.operator.deploy(ganged_spec(version, *arguments, **options)))

    @asynccontextmanager
    async def load(self, *, rate_per_s: float = 100.0, work_s: float = 0.0) -> AsyncIterator[SteadyLoad]:
        """A load for as long as the block lasts, with some calls before and after what is done in it."""
        load = SteadyLoad(self.cluster.router_address, rate_per_s=rate_per_s, callers=64, work_s=work_s)
        async with load.around(before=SOME_CALLS, after=SOME_CALLS):
            yield load

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[RouterWatch]:
        """Looks at what the router routes to, for as long as the block lasts."""
        async with grpc.aio.insecure_channel(self.cluster.router_address) as channel, asyncio.TaskGroup() as tasks:
            watch = RouterWatch(router_pb2_grpc.RouterServiceStub(channel))
            await watch.look()
            looking = tasks.create_task(watch.run())
            try:
                yield watch
            finally:
                looking.cancel()

    async def kill_controller(self) -> None:
        """Kills the controller, and waits until the next one speaks."""
        pid = self.cluster.controller_pid
        await self.cluster.kill_controller()
        await self.operator.until(lambda status: status.pid != pid)


class RouterWatch:
    """What a router routes to, asked again and again: the whole gangs with their epochs ``now``, and the ``fewest`` so far."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
        self._stub = stub
        self._looked = asyncio.Condition()
        self.now: Collection[tuple[str, int]] = ()
        self.fewest = sys.maxsize

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Looks once."""
        answer = await self._stub.GetRouter(router_pb2.GetRouterRequest(), timeout=TIMEOUT_S)
        replicas = [
            one for routed in answer.deployments if routed.application == APPLICATION for one in routed.replicas
        ]
        members = Counter((one.gang.gang_id, one.gang.epoch, one.gang.size) for one in replicas)
        async with self._looked:
            self.now = {(gang_id, epoch) for (gang_id, epoch, size), count in members.items() if count == size}
            self.fewest = min(self.fewest, len(self.now))
            self._looked.notify_all()

    async def until(self, true_of: Callable[[Collection[tuple[str, int]]], bool]) -> None:
        """Waits for a state."""
        async with asyncio.timeout(TIMEOUT_S), self._looked:
            await self._looked.wait_for(lambda: true_of(self.now))
