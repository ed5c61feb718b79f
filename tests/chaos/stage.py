"""A cluster with an operator, and a load whose calls are all accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.operating import APPLICATION, ROOT, Operator
from bench.steady import SteadyLoad
from serve_core.api import build
from serve_core.launch import LocalCluster
from serve_core.model.spec import ApplicationSpec
from serve_core.model.status import DeploymentStatus
from tests.apps.rollouts import changing

RATE_PER_S = 100.0
SOME_CALLS = 30


class Stage:
    """One cluster, as an async context manager."""

    def __init__(self, cluster: LocalCluster, *, journal: Path) -> None:
        self.cluster = cluster
        self.journal = journal
        self.operator = Operator(cluster.controller_address)
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._opened.enter_async_context(self.operator)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    def spec(
        self, version: int, *, hang: bool = False, start_gate: str = "", end_gate: str = "", **options: Any
    ) -> ApplicationSpec:
        """``Changing`` at a version."""
        arguments = (version, str(self.journal), hang, start_gate, end_gate)
        bound = changing.options(working_dir=str(ROOT), **options).bind(*arguments)
        return build(bound, APPLICATION)

    async def serve(self, version: int, **options: Any) -> DeploymentStatus:
        """Deploys a version, and waits until all of it is ready."""
        return await self.operator.until_whole(await self.operator.deploy(self.spec(version, **options)))

    @asynccontextmanager
    async def load(self) -> AsyncIterator[SteadyLoad]:
        """A load for as long as the block lasts, with some calls before and after what is done in it."""
        load = SteadyLoad(self.cluster.router_address, rate_per_s=RATE_PER_S)
        async with load.around(before=SOME_CALLS, after=SOME_CALLS):
            yield load

    async def kill_controller(self) -> None:
        """Kills the controller, and waits until the next one speaks."""
        pid = self.cluster.controller_pid
        await self.cluster.kill_controller()
        await self.operator.until(lambda status: status.pid != pid)

    def ran_twice(self) -> list[str]:
        """The requests that ran more than once."""
        return [number for number, times in Counter(self.journal.read_text().split()).items() if times > 1]


def pids(deployment: DeploymentStatus) -> set[int]:
    """The processes of its replicas."""
    return {one.pid for one in deployment.replicas}
