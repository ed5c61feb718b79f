"""A cluster on one machine looks after its controller and its router."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

import serve_core
from serve_core.client import ControllerClient
from serve_core.errors import PortTakenError
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.model.backoff import Backoff
from serve_core.model.restarts import RestartPolicy
from serve_core.model.status import DeploymentState
from serve_core.runtime import address
from serve_core.wire.status import decode_cluster_status
from tests.integration.conftest import StartWorker
from tests.integration.steady_calls import grpc_calls, http_calls
from tests.integration.test_run import MODULE, Run, post, wait_for_text

pytestmark = pytest.mark.integration
AT_ONCE = Backoff(initial_s=0.01, factor=1.0, max_s=0.01, jitter=0.0)
RESTART = {"restart": True, "restart_policy": RestartPolicy(backoff=AT_ONCE)}


async def replica_pids(cluster: LocalCluster) -> set[int]:
    """The processes of the replicas, once the deployment is healthy."""
    async with ControllerClient(cluster.controller_address) as client:
        async for message in client.watch("crew"):
            for application in decode_cluster_status(message).applications:
                (deployment,) = application.deployments
                if deployment.state is DeploymentState.HEALTHY and deployment.ready_replicas == 2:
                    return {replica.pid for replica in deployment.replicas}
    raise AssertionError("the controller ended")


async def test_a_killed_controller_comes_back_and_adopts_what_lives(start_worker: StartWorker) -> None:
    cluster = await start_worker(num_replicas=2, cluster=RESTART)
    replicas, controller, router = await replica_pids(cluster), cluster.controller_pid, cluster.router_pid
    address = cluster.controller_address
    async with grpc_calls(cluster, retrying=False) as plain, http_calls(cluster) as http:
        for _ in range(2):
            await cluster.kill_controller()
            await cluster.controller_back()
            assert await replica_pids(cluster) == replicas
            await plain.more(20)
            await http.more(20)
    assert (plain.failed, http.failed) == ([], [])
    assert cluster.controller_address == address
    assert cluster.controller_pid != controller
    assert cluster.router_pid == router
    await serve_core.delete("crew", controller=address)


async def test_what_ends_again_and_again_is_left_alone() -> None:
    told: list[str] = []
    policy = RestartPolicy(restarts_max=1, backoff=AT_ONCE)
    config = LocalClusterConfig(cpus=1.0, restart=True, restart_policy=policy)
    async with LocalCluster(config, tell=told.append) as cluster:
        await cluster.kill_router()
        await cluster.router_back()
        await cluster.kill_router()
        assert await cluster.broken() == "the router ended with status -9"
    assert len(told) == 2


async def test_without_restart_the_first_end_is_the_last() -> None:
    async with LocalCluster(LocalClusterConfig(cpus=1.0)) as cluster:
        await cluster.kill_controller()
        assert "the controller ended with status -9" in await cluster.broken()


async def test_nobody_else_gets_the_ports_before_a_successor_has_them() -> None:
    async with LocalCluster(LocalClusterConfig(cpus=1.0)) as cluster:
        await cluster.kill_controller()
        await cluster.kill_router()
        for announced in (cluster.controller_address, cluster.router_address, cluster.http_address):
            host, port = address.split(announced)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind((host, port))


async def test_two_clusters_do_not_share_a_port_by_accident() -> None:
    async with LocalCluster(LocalClusterConfig(cpus=1.0)) as first:
        port = int(first.router_address.rpartition(":")[2])
        second = LocalCluster(LocalClusterConfig(cpus=1.0, port=port))
        with pytest.raises(PortTakenError, match="for gRPC"):
            await second.start()


def test_run_looks_after_both_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(MODULE)
    run = Run(tmp_path, "small:app", "--no-logs", "--workers", "2")
    try:
        run.wait_serving()
        assert "(2 workers), pid " in run.stderr
        for role in ("controller", "router"):
            (pid,) = re.findall(rf"^{role} at .*, pid (\d+)$", run.stderr, re.MULTILINE)
            os.kill(int(pid), signal.SIGKILL)
            wait_for_text(run, f"the {role} is back, pid ")
            assert f"the {role} ended with status -9" in run.stderr
            url = run.addresses["HTTP"]
            assert post(f"{url}/default/count", {"text": "a b"}) == (200, 20)
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == 0, run.stderr
        assert run.left() == []
    finally:
        run.close()
