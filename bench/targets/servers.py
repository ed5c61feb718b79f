"""The servers that rows share: each is started when it is first asked for, and all are ended together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import serve_core
from bench.echo_app import echo
from bench.load import native
from bench.measure.processes import family
from bench.targets.envoy import Envoy
from bench.targets.lives import Replicas, replicas
from bench.targets.programs import ROOT, Program
from bench.targets.ray import Mode, RayServe
from bench.targets.target import Target
from serve_core.launch import LocalCluster, LocalClusterConfig

APPLICATION = "echo"
RAY_PYTHON = ROOT / ".venv-ray" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Cluster:
    """serve-core with the echo deployed: controller, router by gRPC and by HTTP, and replica."""

    controller: str
    router: Target
    http: Target
    replica: Target


class Servers:
    """An async context manager that starts servers when they are first asked for.

    Args:
        folder: Where their files may be.
        ray_python: The Python that has ``ray[serve]``.
    """

    def __init__(self, folder: Path, *, ray_python: Path = RAY_PYTHON) -> None:
        self.folder = folder
        self.ray_python = ray_python
        self._stack = AsyncExitStack()
        self._targets: dict[str, Target] = {}
        self._clusters: dict[int, Cluster] = {}
        self._offer: Program | None = None
        self._native: Path | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def replicas(self) -> Replicas:
        """A cluster of serve-core's own for each row that starts replicas."""
        return await self._stack.enter_async_context(replicas())

    async def program(self, module: str, *arguments: str) -> Program:
        """One more program, until all ends."""
        return await self._stack.enter_async_context(Program(module, *arguments))

    async def native(self) -> Path | None:
        """The load generator in C; None if there is no compiler."""
        if self._native is None:
            self._native = await native.compiled(self.folder)
        return self._native

    async def offer(self) -> Program:
        """The load generator in Python."""
        if self._offer is None:
            self._offer = await self.program("bench.load.offer")
        return self._offer

    async def bare(self) -> Target:
        """A bare grpc.aio server, the baseline."""
        if "bare" not in self._targets:
            program = await self.program("bench.targets.bare")
            self._targets["bare"] = Target(program.first_line, {"server": [program.pid]})
        return self._targets["bare"]

    async def naive(self) -> Target:
        """A grpc.aio server that calls a grpc.aio server: another one than ``bare``, so that they stay apart."""
        if "naive" not in self._targets:
            behind = await self.program("bench.targets.bare")
            proxy = await self.program("bench.targets.naive", behind.first_line)
            self._targets["naive"] = Target(proxy.first_line, {"router": [proxy.pid], "replica": [behind.pid]})
        return self._targets["naive"]

    async def envoy_and_aio(self) -> Target:
        """Envoy in front of a replica that grpc.aio serves."""
        if "envoy_aio" not in self._targets:
            behind = await self.program("bench.targets.bare")
            self._targets["envoy_aio"] = await self._envoy(behind.first_line, [behind.pid])
        return self._targets["envoy_aio"]

    async def envoy_and_core(self) -> Target:
        """Envoy in front of serve-core's replica."""
        if "envoy_core" not in self._targets:
            replica = (await self.cluster()).replica
            self._targets["envoy_core"] = await self._envoy(replica.address, replica.processes["replica"])
        return self._targets["envoy_core"]

    async def _envoy(self, upstream: str, replica: Sequence[int]) -> Target:
        envoy = await self._stack.enter_async_context(Envoy(upstream, self.folder))
        return Target(envoy.address, {"envoy": [envoy.pid], "replica": replica})

    async def ray(self, mode: Mode) -> RayServe:
        """A Ray cluster of its own, with Ray Serve and the echo."""
        return await self._stack.enter_async_context(RayServe(mode, self.ray_python))

    async def cluster(self, *, workers: int = 1) -> Cluster:
        """serve-core with so many router processes, and one replica of the echo."""
        if workers not in self._clusters:
            # A connection that is told to come again would count as a failure of the load generator's.
            config = LocalClusterConfig(cpus=2.0, connection_age_s=0, workers=workers)
            self._clusters[workers] = await deployed(await self._stack.enter_async_context(LocalCluster(config)))
        return self._clusters[workers]


async def deployed(cluster: LocalCluster) -> Cluster:
    """Deploys the echo, and says where everything is."""
    bound = echo.options(working_dir=str(ROOT)).bind()
    await serve_core.deploy(bound, name=APPLICATION, controller=cluster.controller_address)
    status = await serve_core.status(APPLICATION, controller=cluster.controller_address)
    replica = status.applications[0].deployments[0].replicas[0]
    await serve_core.close(cluster.controller_address)
    both = {"router": family(cluster.router_pid), "replica": [replica.pid]}
    return Cluster(
        controller=cluster.controller_address,
        router=Target(cluster.router_address, both),
        http=Target(cluster.http_address, both),
        replica=Target(replica.replica.address, {"replica": [replica.pid]}),
    )
