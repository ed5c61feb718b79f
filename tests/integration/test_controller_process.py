"""The controller as a process, with real replicas."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from serve_core.errors import Reason
from serve_core.model.resources import Resources
from serve_core.model.spec import ApplicationSpec, DeploymentSpec
from serve_core.model.status import ClusterStatus, DeploymentState, ReplicaStatus
from serve_core.runtime import clock
from serve_core.runtime.address import held_port
from serve_core.runtime.process import parse_announcement
from serve_core.v1 import controller_pb2
from serve_core.v1.controller_pb2_grpc import ControllerServiceStub
from serve_core.wire.spec import encode_application_spec
from serve_core.wire.status import decode_cluster_status
from tests.shell.controller.rig import FakeRouter

if TYPE_CHECKING:
    from serve_core.v1.controller_pb2_grpc import ControllerServiceAsyncStub as Stub

pytestmark = pytest.mark.integration

PATIENCE_S = 50.0
"""How long anything may take before the test fails; nothing waits for it to pass."""

USER_CODE = """
class Echo:
    async def __call__(self, value):
        return value
"""


class ControllerProcess:
    """``python -m serve_core.controller``."""

    def __init__(self, state_dir: Path, *options: str) -> None:
        self._arguments = ("-m", "serve_core.controller", "--state-dir", str(state_dir), *options)
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The running process."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Starts it, and waits for nothing."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    async def ready(self) -> str:
        """Starts it, and returns its address."""
        await self.start()
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await self.process.stdout.readline()).decode()
        announced = parse_announcement(line)
        assert announced is not None, await self.ended()
        assert announced[0] == "controller"
        assert announced[1]["pid"] == self.process.pid
        self.address = announced[1]["address"]
        return self.address

    async def ended(self) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr."""
        async with asyncio.timeout(PATIENCE_S):
            _, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, stderr.decode()

    async def kill(self) -> None:
        """Ends it, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Stub]:
    """A client of a controller."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield ControllerServiceStub(channel)


async def status_of(stub: Stub) -> ClusterStatus:
    """The state, now."""
    response = await stub.GetStatus(controller_pb2.GetStatusRequest())
    return decode_cluster_status(response.status)


async def ready_replicas(stub: Stub, *, without: frozenset[str] = frozenset()) -> dict[str, ReplicaStatus]:
    """Waits until the one deployment is healthy without these replicas, and returns its replicas by id."""
    call = stub.WatchStatus(controller_pb2.WatchStatusRequest())
    shown = ""
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for response in call:
                status = decode_cluster_status(response.status)
                deployment = status.applications[0].deployments[0]
                shown = f"{deployment.state.name}: {deployment.message}"
                replicas = {str(one.replica.replica_id): one for one in deployment.replicas}
                if deployment.state is DeploymentState.HEALTHY and not without & replicas.keys():
                    return replicas
    except TimeoutError as error:
        raise AssertionError(f"not healthy in time, last: {shown}") from error
    finally:
        call.cancel()
    raise AssertionError("the stream has ended")


def wait_ended(pid: int) -> None:
    """Waits for the end of a process that may not be a child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), f"process {pid} goes on"
    finally:
        os.close(descriptor)


@pytest.fixture
def user_code(tmp_path: Path) -> Path:
    """A folder with code to deploy."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "echoing.py").write_text(USER_CODE)
    return folder


@pytest.fixture
def leftovers() -> Iterator[list[int]]:
    """Processes to end after the test, whatever happens; each by a descriptor, so never another one of the same pid."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


@pytest.fixture
async def processes() -> AsyncIterator[list[ControllerProcess]]:
    """Controllers to end after the test, whatever happens."""
    started: list[ControllerProcess] = []
    yield started
    for controller in started:
        await controller.kill()


def application(folder: Path, **changes: object) -> controller_pb2.DeployApplicationRequest:
    """Two echoing replicas."""
    settings: dict[str, object] = {
        "import_path": "echoing:Echo",
        "working_dir": str(folder),
        "num_replicas": 2,
        "resources": Resources(cpus=0.25),
        "graceful_shutdown_timeout_s": 5.0,
        **changes,
    }
    deployment = DeploymentSpec(name="echo", **settings)  # type: ignore[arg-type]
    spec = ApplicationSpec(name="app", ingress="echo", deployments=(deployment,))
    return controller_pb2.DeployApplicationRequest(application=encode_application_spec(spec))


async def test_a_controller_starts_and_ends(tmp_path: Path, processes: list[ControllerProcess]) -> None:
    controller = ControllerProcess(tmp_path / "state", "--port", "0", "--cpus", "3")
    processes.append(controller)
    async with connected(await controller.ready()) as stub:
        status = await status_of(stub)
    assert status.nodes[0].total.cpus == 3.0
    assert status.pid == controller.process.pid
    controller.process.terminate()
    assert (await controller.ended())[0] == 0


@pytest.mark.parametrize("options", [(), ("--state-dir",), ("--state-dir", "s", "--port", "70000"), ("--nonsense",)])
async def test_wrong_use_is_status_2(options: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serve_core.controller", *options, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"rror: " in stderr
    assert b"Traceback" not in stderr


def _the_one_line(stderr: str, reason: Reason) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert lines[0].startswith(f"error: {reason}: ")
    assert "Traceback" not in stderr
    return lines[0]


async def test_a_taken_port_is_named(tmp_path: Path, processes: list[ControllerProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        controller = ControllerProcess(tmp_path / "state", "--port", str(port))
        processes.append(controller)
        await controller.start()
        code, stderr = await controller.ended()
    assert code == 1
    assert str(port) in _the_one_line(stderr, Reason.PORT_TAKEN)


@pytest.mark.parametrize("obstacle", ["folder is a file", "file is a folder", "file is no database"])
async def test_a_store_that_cannot_be_used_is_named(
    tmp_path: Path, processes: list[ControllerProcess], obstacle: str
) -> None:
    state = tmp_path / "state"
    if obstacle == "folder is a file":
        state.write_text("")
    elif obstacle == "file is a folder":
        (state / "store.db").mkdir(parents=True)
    else:
        state.mkdir()
        (state / "store.db").write_bytes(b"this is no database at all " * 100)
    controller = ControllerProcess(state, "--port", "0")
    processes.append(controller)
    await controller.start()
    code, stderr = await controller.ended()
    assert code == 1
    line = _the_one_line(stderr, Reason.STORE_UNUSABLE)
    assert str(state) in line
    assert "--state-dir" in line


async def test_two_controllers_do_not_share_a_store(tmp_path: Path, processes: list[ControllerProcess]) -> None:
    first, second = (ControllerProcess(tmp_path / "state", "--port", "0") for _ in range(2))
    processes += [first, second]
    await first.ready()
    await second.start()
    code, stderr = await second.ended()
    assert code == 1
    assert "no other controller" in _the_one_line(stderr, Reason.STORE_UNUSABLE)


async def test_a_killed_replica_is_noticed_withdrawn_and_replaced(
    tmp_path: Path, user_code: Path, processes: list[ControllerProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    controller = ControllerProcess(tmp_path / "state", "--port", "0", "--die-with", str(os.getpid()))
    processes.append(controller)
    async with connected(await controller.ready()) as stub:
        await stub.DeployApplication(application(user_code))
        before = await ready_replicas(stub)
        router = FakeRouter(stub)
        await router.subscribe()
        await router.until(*before)
        victim, survivor = before.values()
        killed_at = clock.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await router.until(survivor.replica.replica_id)
        with capsys.disabled():
            sys.stderr.write(f"\n  SIGKILL to withdrawn: {(clock.monotonic() - killed_at) * 1000:.1f} ms\n")
        after = await ready_replicas(stub, without=frozenset({victim.replica.replica_id}))
        assert survivor.replica.replica_id in after
        assert len(after) == 2
        await router.leave()
        await stub.Shutdown(controller_pb2.ShutdownRequest())
        assert (await controller.ended())[0] == 0
    for replica in after.values():
        wait_ended(replica.pid)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_replicas_outlive_their_controller_and_are_adopted_by_the_next(
    tmp_path: Path,
    user_code: Path,
    processes: list[ControllerProcess],
    leftovers: list[int],
    ending: signal.Signals,
) -> None:
    state = tmp_path / "state"
    with held_port("127.0.0.1", 0) as held:  # from before the first has it until the second does
        port = str(held.getsockname()[1])
        await _adopt(state, port, user_code, processes, leftovers, ending)


async def _adopt(
    state: Path,
    port: str,
    user_code: Path,
    processes: list[ControllerProcess],
    leftovers: list[int],
    ending: signal.Signals,
) -> None:
    first = ControllerProcess(state, "--port", port)
    processes.append(first)
    async with connected(await first.ready()) as stub:
        await stub.DeployApplication(application(user_code))
        before = await ready_replicas(stub)
        leftovers.extend(replica.pid for replica in before.values())
    first.process.send_signal(ending)
    code, _ = await first.ended()
    assert code == (0 if ending is signal.SIGTERM else -signal.SIGKILL)
    second = ControllerProcess(state, "--port", port)
    processes.append(second)
    async with connected(await second.ready()) as stub:
        router = FakeRouter(stub)
        await router.subscribe()
        await router.take()
        # The first table of the next controller holds everything that lives.
        assert set(router.replicas) == set(before)
        after = await ready_replicas(stub)
        assert {name: replica.pid for name, replica in after.items()} == {
            name: replica.pid for name, replica in before.items()
        }
        await router.leave()
        await stub.Shutdown(controller_pb2.ShutdownRequest())
        assert (await second.ended())[0] == 0
    for pid in leftovers:
        wait_ended(pid)


async def test_everything_ends_with_the_process_that_it_belongs_to(
    tmp_path: Path, user_code: Path, processes: list[ControllerProcess], leftovers: list[int]
) -> None:
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", "import signal; signal.pause()")
    leftovers.append(owner.pid)
    controller = ControllerProcess(tmp_path / "state", "--port", "0", "--die-with", str(owner.pid))
    processes.append(controller)
    async with connected(await controller.ready()) as stub:
        await stub.DeployApplication(application(user_code))
        pids = [replica.pid for replica in (await ready_replicas(stub)).values()]
        leftovers.extend(pids)
        owner.kill()
        await owner.wait()
        await controller.ended()
    for pid in pids:
        wait_ended(pid)


async def test_a_constructor_that_raises_is_told_with_its_traceback(
    tmp_path: Path, user_code: Path, processes: list[ControllerProcess]
) -> None:
    (user_code / "failing.py").write_text("class Bad:\n    def __init__(self):\n        raise ValueError('no model')\n")
    controller = ControllerProcess(tmp_path / "state", "--port", "0", "--die-with", str(os.getpid()))
    processes.append(controller)
    async with connected(await controller.ready()) as stub:
        await stub.DeployApplication(
            application(user_code, import_path="failing:Bad", num_replicas=1, max_start_failures=1)
        )
        call = stub.WatchStatus(controller_pb2.WatchStatusRequest())
        async with asyncio.timeout(PATIENCE_S):
            async for response in call:
                deployment = decode_cluster_status(response.status).applications[0].deployments[0]
                if deployment.state is DeploymentState.DEPLOY_FAILED:
                    break
        call.cancel()
        assert deployment.failures[0].reason == Reason.CONSTRUCTOR_FAILED
        assert "ValueError: no model" in deployment.failures[0].traceback
        await stub.Shutdown(controller_pb2.ShutdownRequest())
        assert (await controller.ended())[0] == 0
