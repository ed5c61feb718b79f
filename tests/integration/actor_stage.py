"""A cluster that serves ``Counting`` with its actor ``tally``, and what is done to it while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import psutil

import serve_core
from bench.operating import Operator
from serve_core import DeploymentActor, DeploymentHandle
from serve_core.api import build
from serve_core.client import ControllerClient
from serve_core.errors import ServeError
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.ids import DeploymentKey
from serve_core.model.replica import ReplicaPhase
from serve_core.model.status import ActorStatus, ClusterStatus, DeploymentStatus
from tests.apps.actors import Tally, counting
from tests.integration.conftest import ROOT

APPLICATION = "app"
KEY = DeploymentKey(APPLICATION, "Counting")
PATIENCE_S = 50.0
HEARTBEAT_S = 0.2
LOST_AFTER = 100


def tally(version: int = 1, *, hang: bool = False, start_gate: str = "", **settings: Any) -> DeploymentActor:
    """The actor; it may be silent for long, so that none is replaced because the machine is busy."""
    settings = {
        "on_failure": "RESTART_FROM_SNAPSHOT",
        "heartbeat_period_s": HEARTBEAT_S,
        "suspect_after_missed": 2,
        "lost_after_missed": LOST_AFTER,
        **settings,
    }
    return DeploymentActor("tally", Tally, args=(version, hang, start_gate), **settings)


class ActorStage:
    """The cluster, as an async context manager."""

    def __init__(self) -> None:
        self.cluster = LocalCluster(LocalClusterConfig(cpus=4.0, drain_timeout_s=10.0, restart=True))
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self.cluster)
        self._opened.push_async_callback(serve_core.close, self.address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    @property
    def address(self) -> str:
        """Where the controller listens."""
        return self.cluster.controller_address

    @property
    def handle(self) -> DeploymentHandle[Any]:
        """Calls the replicas."""
        return serve_core.get_handle(APPLICATION, controller=self.address)

    async def deploy(self, *actors: DeploymentActor, version: int = 1, wait: bool = True, **options: Any) -> None:
        """Two replicas, unless ``options`` say otherwise, and these actors."""
        options = {"num_replicas": 2, "progress_deadline_s": 100.0, **options}
        app = counting.options(working_dir=str(ROOT), actors=actors or [tally()], **options).bind(version)
        spec = build(app, APPLICATION)
        await serve_core.deploy(spec, controller=self.address, wait=wait, timeout_s=PATIENCE_S)

    async def until(self, holds: Callable[[DeploymentStatus], object]) -> DeploymentStatus:
        """Waits for a state of the deployment; also past a controller that is replaced."""

        def seen(status: ClusterStatus) -> bool:
            return any(holds(application.deployments[0]) for application in status.applications)

        async with Operator(self.address) as operator:
            status = await operator.until(seen, timeout_s=PATIENCE_S)
        return status.applications[0].deployments[0]

    async def snapshot(self) -> None:
        """Has the actor save its state. Returns once that is acknowledged."""
        async with ControllerClient(self.address) as client:
            await client.snapshot_actor(*KEY, "tally", timeout_s=PATIENCE_S)

    async def serving(self, incarnation: int) -> ActorStatus:
        """Waits until the actor of the target revision serves in this life."""

        def serves(deployment: DeploymentStatus) -> bool:
            return any(
                one.incarnation == incarnation and one.phase is ReplicaPhase.READY and one.replica is not None
                for one in deployment.actors
                if one.revision in (None, deployment.revision)
            )

        return actor_of(await self.until(serves))

    async def replace_controller(self, *also: int) -> None:
        """Kills the controller, and these processes at once, if they are there still, and waits for the next one."""
        for pid in also:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.cluster.kill_controller()
        await self.cluster.controller_back()

    async def deleted(self) -> None:
        """Deletes the application, and waits until nothing of it is known any more."""
        await serve_core.delete(APPLICATION, controller=self.address)
        async with ControllerClient(self.address) as client, asyncio.timeout(PATIENCE_S):
            async for status in client.watch():
                if not status.applications:
                    return


def actor_of(deployment: DeploymentStatus) -> ActorStatus:
    """The actor of the target revision, in its newest life."""
    (found,) = [one for one in deployment.actors if one.revision in (None, deployment.revision)]
    return found


def pids_of(deployment: DeploymentStatus) -> dict[str, int]:
    """The processes of a deployment, by what they are and run."""
    replicas = {f"replica {one.replica.replica_id}": one.pid for one in deployment.replicas}
    actors = {f"actor {one.name} {one.revision} {one.incarnation}": one.pid for one in deployment.actors}
    return replicas | actors


def is_running(pid: int) -> bool:
    """Whether the process is there, and not only an entry that nobody has asked for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Load:
    """What became of the calls that were made all the time."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self.longest_s = 0.0


@asynccontextmanager
async def load(stage: ActorStage, *, callers: int = 8, timeout_s: float = PATIENCE_S) -> AsyncIterator[Load]:
    """Callers that add to the tally for as long as the block lasts."""
    result, over, counted = Load(), asyncio.Event(), asyncio.Condition()
    handle = stage.handle.options(timeout_s=timeout_s)

    async def caller() -> None:
        loop = asyncio.get_running_loop()
        while not over.is_set():
            began = loop.time()
            try:
                await handle.add()
            except (ServeError, TimeoutError) as error:
                result.failed.append(repr(error))
            else:
                result.answered += 1
            result.longest_s = max(result.longest_s, loop.time() - began)
            async with counted:
                counted.notify_all()

    async def more(number: int) -> None:
        until = result.answered + number
        async with asyncio.timeout(PATIENCE_S), counted:
            await counted.wait_for(lambda: result.answered >= until or result.failed)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
        try:
            await more(100)
            yield result
            await more(100)
        finally:
            over.set()
