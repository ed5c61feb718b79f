"""Deployments whose number of replicas follows what is asked of them, with real processes: nobody who calls notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import serve_core
from serve_core.client import ControllerClient
from serve_core.handle import DeploymentHandle
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.status import DeploymentStatus, RolloutPhase
from serve_core.wire.status import decode_cluster_status
from tests.apps.worker import Worker, worker
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.chaos

PATIENCE_S = 60.0
"""How long anything may take before the test fails."""

QUICK = {"target_ongoing_requests": 1.0, "look_back_s": 1.0, "upscale_delay_s": 0.0, "downscale_delay_s": 2.0}
NODES = "nodes: [{id: a, resources: {cpus: 1}}, {id: b, resources: {cpus: 1}}, {id: c, resources: {cpus: 1}}]"


class Scaled:
    """One cluster of three nodes that serves ``Worker``, and the numbers of replicas that it had."""

    def __init__(self, cluster: LocalCluster, client: ControllerClient) -> None:
        self.client = client
        self.address = cluster.controller_address
        self.handle: DeploymentHandle[Worker] = serve_core.get_handle("crew", controller=self.address, target=worker)
        self.numbers: list[int] = []

    async def deploy(self, *, wait: bool = True, **options: Any) -> None:
        """Deploys it."""
        app = worker.options(
            working_dir=str(ROOT), heartbeat_period_s=0.2, suspect_after_missed=15, lost_after_missed=30, **options
        ).bind()
        await serve_core.deploy(app, name="crew", controller=self.address, wait=wait, timeout_s=PATIENCE_S)

    async def until(self, true_of: Callable[[DeploymentStatus], bool]) -> DeploymentStatus:
        """Waits for a state of the deployment."""
        seen: DeploymentStatus | None = None
        try:
            async with asyncio.timeout(PATIENCE_S), aclosing(self.client.watch("crew")) as states:
                async for state in states:
                    (seen,) = decode_cluster_status(state).applications[0].deployments
                    if self.numbers[-1:] != [seen.num_replicas]:
                        self.numbers.append(seen.num_replicas)
                    if true_of(seen):
                        return seen
        except TimeoutError:
            raise AssertionError(f"it did not come to that; the numbers were {self.numbers}, and last {seen}") from None
        raise AssertionError("the controller ended")

    async def until_ready(self, count: int) -> DeploymentStatus:
        """Waits until there are just so many replicas, all of them ready."""
        return await self.until(lambda seen: seen.num_replicas == seen.ready_replicas == len(seen.replicas) == count)

    @asynccontextmanager
    async def callers(self, count: int, seconds: float) -> AsyncIterator[Calls]:
        """Callers that call again as soon as they are answered."""
        calls = Calls()
        going = True

        async def call() -> None:
            while going:
                try:
                    await self.handle.work(seconds)
                except serve_core.ServeError as error:
                    calls.failed.append(error)
                else:
                    calls.answered += 1

        tasks = [asyncio.ensure_future(call()) for _ in range(count)]
        try:
            yield calls
        finally:
            going = False
            await asyncio.gather(*tasks)


class Calls:
    """What became of calls."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[serve_core.ServeError] = []


@pytest.fixture
async def scaled(tmp_path: Path) -> AsyncIterator[Scaled]:
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(NODES)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(LocalCluster(LocalClusterConfig(nodes=nodes, drain_timeout_s=20.0)))
        client = await stack.enter_async_context(ControllerClient(cluster.controller_address))
        stack.push_async_callback(serve_core.close, cluster.controller_address)
        yield Scaled(cluster, client)


async def test_an_update_a_drain_of_a_node_and_more_callers_come_at_once(scaled: Scaled) -> None:
    options: dict[str, Any] = {"autoscaling": {"max_replicas": 6, **QUICK}, "max_ongoing_requests": 4}
    await scaled.deploy(**options)
    async with scaled.callers(2, 0.2) as few:
        before = await scaled.until_ready(2)
        drained = before.replicas[0].replica.node_id
        async with scaled.callers(3, 0.2) as more:
            await scaled.deploy(wait=False, env={"VERSION": "2"}, **options)
            await scaled.client.drain_node(drained)
            after = await scaled.until(
                lambda seen: (
                    seen.revision != before.revision
                    and seen.rollout is not None
                    and seen.rollout.phase is RolloutPhase.COMPLETE
                    and seen.ready_replicas == seen.num_replicas == len(seen.replicas) >= 4
                    and all(one.replica.node_id != drained for one in seen.replicas)
                )
            )
    await scaled.until_ready(1)
    assert (few.failed, more.failed) == ([], [])
    assert few.answered
    assert more.answered
    assert not {one.replica.replica_id for one in after.replicas} & {one.replica.replica_id for one in before.replicas}
    reasons = {event.reason async for event in scaled.client.events("crew")}
    assert {"ScaledUp", "ScaledDown", "RolloutComplete"} <= reasons
    assert not reasons & {"RolloutFailed", "GangFailed", "StartFailed"}


async def test_whole_gangs_come_and_go(scaled: Scaled) -> None:
    await scaled.deploy(autoscaling={"min_replicas": 2, "max_replicas": 8, **QUICK}, gang={"size": 2})
    await scaled.until_ready(2)
    async with scaled.callers(8, 0.1) as calls:
        await scaled.until_ready(8)
    await scaled.until_ready(2)
    assert calls.failed == []
    assert {number % 2 for number in scaled.numbers} == {0}
    assert (min(scaled.numbers), max(scaled.numbers)) == (2, 8)


async def test_promises_want_replicas_too_and_the_first_comes_when_it_is_called(scaled: Scaled) -> None:
    await scaled.deploy(
        autoscaling={"min_replicas": 0, "max_replicas": 3, **QUICK}, max_ongoing_requests=1, slot_ttl_max_s=600.0
    )
    none = await scaled.until_ready(0)
    assert none.autoscaling is not None
    assert (none.autoscaling.min_replicas, none.autoscaling.max_replicas) == (0, 3)
    async with AsyncExitStack() as held:
        choices = [
            asyncio.ensure_future(
                held.enter_async_context(scaled.handle.choose_replica(timeout_s=PATIENCE_S, ttl_s=300.0))
            )
            for _ in range(3)
        ]
        chosen = await asyncio.gather(*choices)
        full = await scaled.until(
            lambda seen: seen.num_replicas == 3 and [one.load.reserved for one in seen.replicas] == [1, 1, 1]
        )
        assert {one.replica_id for one in chosen} == {one.replica.replica_id for one in full.replicas}
    await scaled.until_ready(0)
