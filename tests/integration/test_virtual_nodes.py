"""One machine as several nodes: real processes, each with the GPUs of its own node only."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from bench.operating import Operator
from serve_core.client import ControllerClient
from serve_core.errors import ConfigInvalidError, ServeError
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.gang import GangPolicy, Strategy
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.model.status import ClusterStatus
from serve_core.wire.status import decode_cluster_status
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.integration

NODES = """
nodes:
  - {id: a, zone: z1, labels: {disk: ssd}, resources: {cpus: 2, gpus: 2}}
  - {id: b, zone: z2, resources: {cpus: 2, gpus: 2}}
"""


def _config(tmp_path: Path, text: str = NODES, *, restart: bool = False) -> LocalClusterConfig:
    path = tmp_path / "nodes.yaml"
    path.write_text(text)
    return LocalClusterConfig(nodes=path, drain_timeout_s=20.0, restart=restart)


def _app(**changes: object) -> ApplicationSpec:
    settings: dict[str, object] = {
        "name": "w",
        "import_path": "tests.apps.worker:Worker",
        "working_dir": str(ROOT),
        "resources": Resources(cpus=0.1, gpus=1.0),
    }
    return ApplicationSpec(
        name="app",
        ingress="w",
        deployments=(DeploymentSpec(**settings | changes),),  # type: ignore[arg-type]
    )


def _gpus(pid: int) -> str:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(entry for entry in entries if entry.startswith(b"CUDA_VISIBLE_DEVICES=")).decode().partition("=")[2]


async def test_each_replica_sees_the_gpus_of_its_node_only(tmp_path: Path) -> None:
    async with LocalCluster(_config(tmp_path)) as cluster, ControllerClient(cluster.controller_address) as client:
        generation = await client.deploy(_app(num_replicas=4))
        status = await client.wait_ready("app", generation=generation, timeout_s=60.0)
        replicas = status.applications[0].deployments[0].replicas
        seen = sorted((one.replica.node_id, one.replica.zone, _gpus(one.pid)) for one in replicas)
        assert seen == [("a", "z1", "0"), ("a", "z1", "1"), ("b", "z2", "2"), ("b", "z2", "3")]
        first, second = status.nodes
        assert (first.node_id, first.labels, first.used.gpus) == ("a", {"disk": "ssd"}, 2.0)
        assert (second.zone, second.total) == ("z2", Resources(cpus=2.0, gpus=2.0))


async def test_labels_choose_the_node_and_child_bundles_stay_there(tmp_path: Path) -> None:
    async with LocalCluster(_config(tmp_path)) as cluster, ControllerClient(cluster.controller_address) as client:
        wanted = _app(num_replicas=1, node_labels={"disk": "ssd"}, bundles=(Resources(gpus=1.0),))
        generation = await client.deploy(wanted)
        status = await client.wait_ready("app", generation=generation, timeout_s=60.0)
        (one,) = status.applications[0].deployments[0].replicas
        assert (one.replica.node_id, _gpus(one.pid)) == ("a", "0"), "the other GPU is its child's"
        assert [node.used.gpus for node in status.nodes] == [2.0, 0.0]


async def test_a_file_that_is_wrong_is_told_at_the_start(tmp_path: Path) -> None:
    config = _config(tmp_path, "nodes: [{id: a, resources: {cpu: 1}}]")
    with pytest.raises(ServeError, match=r"nodes\[0\]\.resources\.cpu.*did you mean 'cpus'") as caught:
        await LocalCluster(config).start()
    assert caught.value.reason == ConfigInvalidError.reason


async def test_nodes_are_listed_and_drained_by_command(tmp_path: Path) -> None:
    async with LocalCluster(_config(tmp_path)) as cluster, ControllerClient(cluster.controller_address) as client:

        async def command(*words: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "serve_core.cli", "node", *words),
                *("--controller", cluster.controller_address),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await process.communicate()
            return process.returncode or 0, out.decode()

        assert (await command("drain", "b", "--deadline", "600", "--wait")) == (
            0,
            "node b is being drained\nnothing is left on node b\n",
        )
        code, listed = await command("list")
        assert (code, ["draining" in line for line in listed.splitlines()]) == (0, [False, False, True])
        code, said = await command("drain", "c")
        assert code == 1
        assert said.startswith("error: NODE_UNKNOWN: there is no node 'c'; there is: a, b")
        wanted = _app(num_replicas=2, gang=GangPolicy(size=2, placement=Strategy.STRICT_SPREAD))
        await client.deploy(wanted)
        async for state in client.watch("app"):
            text = str(state)
            if "needs 2 x 0.1 CPUs, 1 GPU on distinct nodes, 1 has one" in text:
                break
        assert (await command("undrain", "b")) == (0, "node b is used again\n")
        async for state in client.watch("app"):
            nodes = {one.replica.node_id for one in state.applications[0].deployments[0].replicas}
            if nodes == {"a", "b"}:
                break


async def test_a_gang_moves_whole_off_a_node_that_is_drained(tmp_path: Path) -> None:
    async with LocalCluster(_config(tmp_path)) as cluster, ControllerClient(cluster.controller_address) as client:
        wanted = _app(num_replicas=2, gang=GangPolicy(size=2, placement=Strategy.STRICT_PACK))
        generation = await client.deploy(wanted)
        before = await client.wait_ready("app", generation=generation, timeout_s=60.0)
        (node,) = {one.replica.node_id for one in before.applications[0].deployments[0].replicas}
        await client.drain_node(node)
        fewest = 2
        async for state in client.watch("app"):
            status = decode_cluster_status(state)
            replicas = status.applications[0].deployments[0].replicas
            fewest = min(fewest, sum(one.in_rotation for one in replicas))
            left = [one for one in replicas if one.replica.node_id == node]
            if not left and next(one.used for one in status.nodes if one.node_id == node) == Resources():
                break
        assert fewest == 2, "the new gang was ready before the old one left"
        assert len({one.replica.node_id for one in replicas}) == 1
        reasons = [event.reason async for event in client.events("app")]
        assert "NodeDraining" in reasons


async def test_what_runs_on_a_node_that_is_gone_at_the_next_start_is_replaced_elsewhere(tmp_path: Path) -> None:
    config = _config(tmp_path, restart=True)
    async with LocalCluster(config) as cluster:
        async with ControllerClient(cluster.controller_address) as client:
            generation = await client.deploy(_app(num_replicas=2, gang=GangPolicy(placement=Strategy.PACK)))
            before = await client.wait_ready("app", generation=generation, timeout_s=60.0)
        old = {one.pid: one.replica.node_id for one in before.applications[0].deployments[0].replicas}
        assert set(old.values()) == {"a", "b"}
        (tmp_path / "nodes.yaml").write_text("nodes: [{id: a, resources: {cpus: 2, gpus: 2}}]")
        os.kill(cluster.controller_pid, signal.SIGKILL)
        moved = await _until_all_on(cluster, "a")
        assert {pid for pid, node in old.items() if node == "a"} <= moved, "what was on the other node goes on"
        (lost,) = (pid for pid, node in old.items() if node == "b")
        assert not _is_alive(lost)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _until_all_on(cluster: LocalCluster, node: str) -> set[int]:
    """The processes of two replicas that are ready on a node, once there are no others."""

    def all_there(status: ClusterStatus) -> bool:
        replicas = status.applications[0].deployments[0].replicas
        return len(replicas) == 2 and all(
            one.replica.node_id == node and one.in_rotation and one.pid for one in replicas
        )

    async with Operator(cluster.controller_address) as operator:
        status = await operator.until(all_there, timeout_s=60.0)
    return {one.pid for one in status.applications[0].deployments[0].replicas}
