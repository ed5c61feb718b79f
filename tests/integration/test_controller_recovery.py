"""A controller that is killed, stopped, or finds less than it left: nothing healthy notices, and the rest is mended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import psutil
import pytest

from bench.steady import SteadyLoad
from serve_core.errors import Reason
from serve_core.model.health import HealthPolicy
from serve_core.model.resources import Resources
from serve_core.model.share import Share
from serve_core.model.spec import ApplicationSpec, DeploymentSpec, RolloutPolicy
from serve_core.model.status import DeploymentState, DeploymentStatus, ReplicaStatus, RolloutPhase
from serve_core.runtime.address import held_port
from serve_core.runtime.process import parse_announcement
from serve_core.v1 import controller_pb2
from serve_core.v1.controller_pb2_grpc import ControllerServiceStub
from serve_core.wire.spec import encode_application_spec
from serve_core.wire.status import decode_cluster_status
from tests.integration.test_controller_process import PATIENCE_S, ControllerProcess, wait_ended

pytestmark = pytest.mark.integration

HEALTH = HealthPolicy(heartbeat_period_s=0.2, suspect_after_missed=25, lost_after_missed=25)
"""Five seconds of silence: a machine that is busy lets none of them be silent for that long. Nor is one out of rotation sooner: a
controller that is stopped, or killed, just then cannot take it back."""

RATE_PER_S = 50.0
AWAY_CALLS = 300
"""At the load's rate, six seconds: longer than the silence by which a replica is lost."""

USER_CODE = """
import os
from pathlib import Path


class Work:
    def __init__(self, version=1):
        self.version = version

    async def work(self, number, work_s):
        return {"pid": os.getpid(), "version": self.version}


class Newer(Work):
    def __init__(self):
        super().__init__(2)


class Broken:
    def __init__(self):
        with Path("tries").open("a") as tries:
            tries.write("one\\n")
        raise ValueError("no model")
"""


class Cluster:
    """One controller after another on the same state and port, a router that outlives them, and a client of both."""

    def __init__(self, folder: Path, router_address: str, controller: ControllerProcess, port: str) -> None:
        self.folder = folder
        self.router_address = router_address
        self.controller = controller
        self._port = port
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[("grpc.max_reconnect_backoff_ms", 200), ("grpc.initial_reconnect_backoff_ms", 200)],
        )
        self.stub = ControllerServiceStub(self._channel)

    @property
    def state(self) -> Path:
        """Where the controllers keep everything."""
        return self.folder / "state"

    async def close(self) -> None:
        """Ends the controller and the client."""
        await self._channel.close()
        await self.controller.kill()

    async def kill(self) -> None:
        """Ends the controller as the kernel would."""
        self.controller.process.send_signal(signal.SIGKILL)
        await self.controller.ended()

    async def restart(self) -> None:
        """Starts the next one."""
        self.controller = ControllerProcess(self.state, "--port", self._port, "--cpus", "4")
        await self.controller.ready()

    async def deploy(self, import_path: str = "working:Work", **changes: object) -> None:
        """Two small replicas whose silence is noticed soon, unless said otherwise."""
        settings: dict[str, object] = {
            "import_path": import_path,
            "working_dir": str(self.folder),
            "num_replicas": 2,
            "resources": Resources(cpus=0.25),
            "graceful_shutdown_timeout_s": 5.0,
            "health": HEALTH,
            **changes,
        }
        deployment = DeploymentSpec(name="crew", **settings)  # type: ignore[arg-type]
        spec = ApplicationSpec(name="steady", ingress="crew", deployments=(deployment,))
        request = controller_pb2.DeployApplicationRequest(application=encode_application_spec(spec))
        await self.stub.DeployApplication(request, wait_for_ready=True)

    async def until(self, holds: Callable[[DeploymentStatus], bool]) -> DeploymentStatus:
        """Waits for a state of the deployment."""
        call = self.stub.WatchStatus(controller_pb2.WatchStatusRequest(), wait_for_ready=True)
        shown: DeploymentStatus | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for response in call:
                    shown = decode_cluster_status(response.status).applications[0].deployments[0]
                    if holds(shown):
                        return shown
        except TimeoutError as error:
            raise AssertionError(f"not in time; last: {shown}") from error
        finally:
            call.cancel()
        raise AssertionError(f"the stream has ended; last: {shown}")

    async def until_whole(self, *, without: frozenset[int] = frozenset()) -> dict[int, ReplicaStatus]:
        """Waits until two replicas serve, none of them with one of these pids; they are returned by pid."""

        def is_whole(deployment: DeploymentStatus) -> bool:
            pids = {one.pid for one in deployment.replicas if one.in_rotation and one.load.capacity}
            return deployment.state is DeploymentState.HEALTHY and len(pids) == 2 and not pids & without

        deployment = await self.until(is_whole)
        return {one.pid: one for one in deployment.replicas}

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[SteadyLoad]:
        """Calls for as long as the block lasts, all of which must succeed."""
        load = SteadyLoad(self.router_address, rate_per_s=RATE_PER_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            try:
                await load.more(20)
                yield load
                await load.more(20)
            finally:
                load.stop()
        assert not load.failed, load.failed[:3]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A controller and a router. Replicas are not bound to either, and are ended in the end."""
    (tmp_path / "working.py").write_text(USER_CODE)
    # Held, so that nobody else gets it while one controller has ended and the next has not begun.
    held = held_port("127.0.0.1", 0)
    controller = ControllerProcess(tmp_path / "state", "--port", str(held.getsockname()[1]), "--cpus", "4")
    address = await controller.ready()
    router = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router", "--controller", address, "--port", "0", "--http-port", "0"),
        *("--die-with", str(os.getpid())),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    opened: Cluster | None = None
    try:
        assert router.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            announced = parse_announcement((await router.stdout.readline()).decode())
        assert announced is not None
        opened = Cluster(tmp_path, announced[1]["address"], controller, address.rpartition(":")[2])
        yield opened
    finally:
        if opened is not None:
            await opened.close()
        await controller.kill()
        held.close()
        router.kill()
        await router.communicate()
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] == str(tmp_path):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


async def test_nobody_notices_that_a_controller_was_killed(cluster: Cluster) -> None:
    await cluster.deploy()
    before = await cluster.until_whole()
    async with cluster.load() as load:
        await cluster.kill()
        await load.more(AWAY_CALLS)
        await cluster.restart()
        after = await cluster.until_whole()
        await load.more(AWAY_CALLS)
    assert set(after) == set(before)
    assert {call.pid for call in load.calls[-AWAY_CALLS:]} == set(before)
    assert set(await cluster.until_whole()) == set(before)


async def test_one_that_is_killed_again_and_again_does_no_harm(cluster: Cluster) -> None:
    await cluster.deploy()
    before = await cluster.until_whole()
    async with cluster.load() as load:
        for calls in (1, 5, 10, 20):
            await cluster.kill()
            await cluster.restart()
            await load.more(calls)
        after = await cluster.until_whole()
    assert set(after) == set(before)


async def test_a_stopped_controller_loses_no_replica_when_it_goes_on(cluster: Cluster) -> None:
    await cluster.deploy()
    before = await cluster.until_whole()
    async with cluster.load() as load:
        cluster.controller.process.send_signal(signal.SIGSTOP)
        await load.more(AWAY_CALLS)
        cluster.controller.process.send_signal(signal.SIGCONT)
        after = await cluster.until_whole()
        await load.more(AWAY_CALLS)
        after = await cluster.until_whole()
    assert set(after) == set(before)
    assert {one.replica.replica_id for one in after.values()} == {one.replica.replica_id for one in before.values()}


async def test_a_paused_rollout_is_still_paused(cluster: Cluster) -> None:
    rollout = RolloutPolicy(pause_at=Share(50, percent=True))
    await cluster.deploy(rollout=rollout)
    await cluster.until_whole()

    def is_paused(deployment: DeploymentStatus) -> bool:
        return (
            deployment.rollout is not None
            and deployment.rollout.phase is RolloutPhase.PAUSED
            and deployment.rollout.updated_available == 1
        )

    def by_revision(deployment: DeploymentStatus) -> set[tuple[str, int]]:
        return {(one.replica.revision, one.pid) for one in deployment.replicas if one.in_rotation}

    async with cluster.load() as load:
        await cluster.deploy("working:Newer", rollout=rollout)
        paused = await cluster.until(lambda one: is_paused(one) and len(by_revision(one)) == len(one.replicas))
        assert len({revision for revision, _ in by_revision(paused)}) == 2
        await cluster.kill()
        await cluster.restart()
        # Longer than a rollout that goes on would take to begin with the next replica.
        await load.more(AWAY_CALLS)
        again = await cluster.until(is_paused)
        assert by_revision(again) == by_revision(paused)
        request = controller_pb2.ResumeRolloutRequest(application="steady", deployment="crew")
        await cluster.stub.ResumeRollout(request)
        done = await cluster.until(lambda one: one.rollout is not None and one.rollout.phase is RolloutPhase.COMPLETE)
    assert {one.replica.revision for one in done.replicas if one.in_rotation} == {done.revision}


async def test_failed_starts_are_counted_on(cluster: Cluster) -> None:
    limit = 4
    await cluster.deploy("working:Broken", num_replicas=1, max_start_failures=limit)
    seen = await cluster.until(lambda one: one.start_failures >= 2)
    assert seen.state is not DeploymentState.DEPLOY_FAILED
    await cluster.kill()
    await cluster.restart()
    failed = await cluster.until(lambda one: one.state is DeploymentState.DEPLOY_FAILED)
    assert failed.start_failures == limit
    assert "ValueError: no model" in failed.failures[0].traceback
    assert failed.failures[0].reason == Reason.CONSTRUCTOR_FAILED
    assert len((cluster.folder / "tries").read_text().split()) == limit


async def test_what_died_meanwhile_is_replaced_and_the_rest_is_kept(cluster: Cluster) -> None:
    await cluster.deploy()
    victim, survivor = await cluster.until_whole()
    await cluster.kill()
    os.kill(victim, signal.SIGKILL)
    wait_ended(victim)
    await cluster.restart()
    after = await cluster.until_whole(without=frozenset({victim}))
    assert survivor in after


@pytest.mark.parametrize("speaks", [True, False])
async def test_what_nobody_has_a_record_of_is_ended(cluster: Cluster, *, speaks: bool) -> None:
    await cluster.deploy()
    before = await cluster.until_whole()
    orphan, owned = before
    await cluster.kill()
    gang = before[orphan].replica.gang.gang_id
    with contextlib.closing(sqlite3.connect(cluster.state / "store.db")) as store, store:
        assert store.execute("DELETE FROM entries WHERE key = ?", (f"gangs/{gang}",)).rowcount == 1
    if not speaks:
        os.kill(orphan, signal.SIGSTOP)
    await cluster.restart()
    after = await cluster.until_whole(without=frozenset({orphan}))
    assert owned in after
    # One that speaks is disowned as soon as it does; one that does not is killed after a grace.
    await asyncio.to_thread(wait_ended, orphan)
