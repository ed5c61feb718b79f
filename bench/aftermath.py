"""What should not be there any more when all is quiet: processes, what the backend has noted of them, placements, slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from bench.operating import Operator, conserved, counters, deployment_of, processes_of, total, whole
from serve_core.launch import LocalCluster
from serve_core.model.slots import SlotCounters
from serve_core.model.status import ClusterStatus, DeploymentStatus

SETTLED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.1


async def left_over(
    cluster: LocalCluster, operator: Operator, *, replica_cpus: float
) -> tuple[list[str], SlotCounters]:
    """Waits until nothing is left but the deployment ``Steady``, whole and idle.

    Returns:
        What is left after all, in words, and how the promises of the replicas that are there have ended.
    """
    left: list[str] = []
    sums = SlotCounters()
    try:
        async with asyncio.timeout(SETTLED_WITHIN_S):
            while True:
                status = await operator.status()
                deployment = deployment_of(status)
                if deployment is None or not whole(deployment):
                    left = [f"the deployment is not whole: {deployment}"]
                else:
                    left = [*_in_state(status, deployment, replica_cpus), *_on_machine(cluster, deployment)]
                    promises, sums = await _promises(deployment)
                    left += promises
                if not left:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        pass
    return left, sums


def _in_state(status: ClusterStatus, deployment: DeploymentStatus, replica_cpus: float) -> Iterator[str]:
    """What the controller knows of beside what it should."""
    held, wanted = sum(node.used.cpus for node in status.nodes), deployment.num_replicas * replica_cpus
    if abs(held - wanted) > 1e-6:
        yield f"placements hold {held:g} CPUs instead of {wanted:g}"
    if len(status.routers) != 1:
        yield f"{len(status.routers)} routers are known instead of 1"


def _on_machine(cluster: LocalCluster, deployment: DeploymentStatus) -> Iterator[str]:
    """What is there, whatever the controller knows: processes by their mark, and the files that the backend keeps of each
    process and each placement."""
    wanted = {cluster.controller_pid, cluster.router_pid, *(one.pid for one in deployment.replicas)}
    found = processes_of(cluster)
    yield from (f"process {pid}" for pid in sorted(found - wanted))
    yield from (f"process {pid} is missing" for pid in sorted(wanted - found))
    processes = {f"{one.replica.replica_id}.{one.replica.epoch}.json" for one in deployment.replicas}
    placements = {f"{one.replica.gang.gang_id}.json" for one in deployment.replicas}
    yield from _differences(cluster.state_dir / "processes", processes)
    yield from _differences(cluster.state_dir / "placements", placements)


def _differences(folder: Path, wanted: set[str]) -> Iterator[str]:
    found = {path.name for path in folder.iterdir()}
    yield from (f"{folder.name}/{name}" for name in sorted(found - wanted))
    yield from (f"{folder.name}/{name} is missing" for name in sorted(wanted - found))


async def _promises(deployment: DeploymentStatus) -> tuple[list[str], SlotCounters]:
    """Slots that are held, or of which nobody knows how they ended; and how all of them did."""
    found = await counters(deployment)
    sums = total(found)
    held = [
        f"{one.reserved} reserved and {one.ongoing} ongoing slots of {replica_id}"
        for replica_id, one in found.items()
        if one.reserved or one.ongoing
    ]
    return held if conserved(sums) else [*held, f"promises that are not accounted for: {sums}"], sums
