"""A whole cluster on this machine: a controller, a router, and what the controller starts; all of it ends together."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from serve_core.client import ControllerClient
from serve_core.errors import ConfigInvalidError, FieldViolation, PortTakenError, ServeError
from serve_core.keeping import KeptProcess, Tell
from serve_core.model.restarts import RestartPolicy
from serve_core.runtime import address
from serve_core.runtime.supervisor import Supervisor
from serve_core.subprocesses import RUN_ENV, ChildProcess, end_processes, marked_processes

LOGS_FOLDER = "logs"
"""The folder of the state directory that holds the replicas' logs, one file each."""

_END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterConfig:
    """How to start a cluster on this machine. Port 0 lets the system choose.

    Attributes:
        host: Where controller and router listen.
        port: The router's gRPC port.
        http_port: The router's HTTP port.
        workers: How many router processes share those two ports. With more than one, ``LocalCluster.router_pid`` is their parent.
        controller_port: The controller's port.
        state_dir: Where the controller keeps its records and the replicas' logs; None means a temporary folder.
        cpus: Cores to hand out; None means what the machine has.
        gpus: GPUs to hand out; None means what the machine has.
        memory_bytes: Memory to hand out; None means what the machine has.
        nodes: A file that divides the machine into virtual nodes, instead of those three; read whenever the controller starts.
        max_message_bytes: The largest message; None means the default.
        start_timeout_s: Seconds that the controller and the router each have to start.
        drain_timeout_s: Seconds that everything has to finish what it has when the cluster is stopped.
        linger_timeout_s: Seconds of those that the router serves on at most, until its callers have left.
        connection_age_s: Seconds after which gRPC clients of the router are told to connect anew, as they must to leave
            a router that is replaced.
        restart: Whether a controller or a router that ends is started again, with the same ports and records.
        restart_policy: How often, and when.
    """

    host: str = "127.0.0.1"
    port: int = 0
    http_port: int = 0
    workers: int = 1
    controller_port: int = 0
    state_dir: Path | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: int | None = None
    nodes: Path | None = None
    max_message_bytes: int | None = None
    start_timeout_s: float = 30.0
    drain_timeout_s: float = 60.0
    linger_timeout_s: float = 3.0
    connection_age_s: float = 2.0
    restart: bool = False
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessNode:
    """One process of a cluster: its id, its title, and how deep below the cluster's owner it is."""

    pid: int
    title: str
    depth: int


class LocalCluster:
    """A running cluster, as an async context manager. Leaving it drains and ends everything.

    Should this process be killed, the others end by themselves.

    Args:
        config: How to start it.
        tell: Told in one line when the controller or the router ended and is started again.
    """

    def __init__(self, config: LocalClusterConfig | None = None, *, tell: Tell = lambda _: None) -> None:
        self._config = config or LocalClusterConfig()
        self._tell = tell
        self._run_id = uuid.uuid4().hex
        self._temporary: Path | None = None
        self._state_dir: Path | None = self._config.state_dir
        self._controller: KeptProcess | None = None
        self._router: KeptProcess | None = None
        self._crash: asyncio.Future[str] | None = None
        self._keepers = Supervisor("cluster", on_crash=self._crashed)
        self._held_ports: list[socket.socket] = []
        """Nobody else gets the ports while a process that ended has no successor yet: the system gives away what is free."""
        self._controller_port = self._config.controller_port
        self.controller_address = ""
        self.router_address = ""
        self.http_address = ""

    @property
    def state_dir(self) -> Path:
        """Where the controller keeps its records."""
        if self._state_dir is None:
            raise RuntimeError("the cluster was not started")
        return self._state_dir

    @property
    def logs_dir(self) -> Path:
        """Where the replicas' logs are."""
        return self.state_dir / LOGS_FOLDER

    @property
    def controller_pid(self) -> int:
        """The controller's process."""
        return 0 if self._controller is None else self._controller.pid

    @property
    def router_pid(self) -> int:
        """The router's process."""
        return 0 if self._router is None else self._router.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the controller, then the router.

        Raises:
            ServeError: One of them cannot start, and why. Nothing is left running.
        """
        try:
            self._make_state_dir()
            self._crash = asyncio.get_running_loop().create_future()
            self._keepers.open()
            await self._start_controller()
            await self._start_router()
        except BaseException:
            await self.stop()
            raise

    def _make_state_dir(self) -> None:
        if self._state_dir is None:
            self._temporary = self._state_dir = Path(tempfile.mkdtemp(prefix="serve-core-"))
        try:
            (self._state_dir / LOGS_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            place = FieldViolation(str(self._state_dir), f"cannot be written: {error.strerror}")
            raise ConfigInvalidError([place], what="the state directory") from None

    async def _start_controller(self) -> None:
        held = address.held_port(self._config.host, self._config.controller_port)
        self._held_ports.append(held)
        self._controller_port = int(held.getsockname()[1])
        # It ends with 0 when it was told to shut everything down.
        self._controller = self._kept(self._new_controller, final=frozenset((0,)))
        announced = await self._controller.start()
        self.controller_address = str(announced["address"])
        self._keepers.spawn(self._controller.keep(), name="controller")

    async def _start_router(self) -> None:
        config = self._config
        # Routers share their ports with their successors, and so with any other cluster's: those are refused here.
        for port, which in ((config.port, "gRPC"), (config.http_port, "HTTP")):
            await _check_free(config.host, port, which)
        self._router = self._kept(self._new_router)
        announced = await self._router.start()
        self.router_address = str(announced["address"])
        self.http_address = str(announced.get("http_address", ""))
        for taken in filter(None, (self.router_address, self.http_address)):
            self._held_ports.append(address.held_port(config.host, address.split(taken)[1], reuse_port=True))
        self._keepers.spawn(self._router.keep(), name="router")

    def _kept(self, make: Callable[[], ChildProcess], *, final: frozenset[int] = frozenset()) -> KeptProcess:
        config = self._config
        policy = config.restart_policy if config.restart else None
        return KeptProcess(make, start_timeout_s=config.start_timeout_s, policy=policy, tell=self._tell, final=final)

    def _new_controller(self) -> ChildProcess:
        config = self._config
        arguments = [
            *("--host", config.host, "--port", str(self._controller_port)),
            *("--state-dir", str(self.state_dir)),
        ]
        for flag, value in (
            ("--cpus", config.cpus),
            ("--gpus", config.gpus),
            ("--memory-bytes", config.memory_bytes),
            ("--nodes", config.nodes),
            ("--max-message-bytes", config.max_message_bytes),
        ):
            if value is not None:
                arguments += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return self._child("controller", "serve_core.controller", arguments)

    def _new_router(self) -> ChildProcess:
        config = self._config
        arguments = ["--controller", self.controller_address, "--host", config.host, "--reuse-port", "--quiet-s", "0"]
        for flag, value in (
            ("--port", _port_of(self.router_address, config.port)),
            ("--http-port", _port_of(self.http_address, config.http_port)),
            ("--workers", config.workers),
            ("--drain-timeout-s", config.drain_timeout_s),
            ("--linger-timeout-s", config.linger_timeout_s),
            ("--connection-age-s", config.connection_age_s),
            ("--max-message-bytes", config.max_message_bytes),
        ):
            if value is not None:
                arguments += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return self._child("router", "router", arguments)

    def _child(self, role: str, module: str, arguments: list[str]) -> ChildProcess:
        return ChildProcess(
            role, module, arguments, log_path=self.state_dir / f"{role}.log", env={RUN_ENV: self._run_id}
        )

    async def broken(self) -> str:
        """Waits until the controller or the router has ended unasked for good; says which one, and how."""
        async with Supervisor("broken") as tasks:
            waiting = {
                tasks.spawn(kept.given_up(), name="given up")
                for kept in (self._controller, self._router)
                if kept is not None
            }
            if self._crash is not None:
                waiting.add(tasks.spawn(_result_of(self._crash), name="crash"))
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()

    async def restart_router(self) -> None:
        """Replaces the router by a new one on the same ports, which no caller notices.

        The new one listens once it routes by the controller's table; then the old one drains and ends.

        Raises:
            ServeError: The new one cannot start, and why. The old one goes on.
        """
        await _present(self._router).replace(self._config.drain_timeout_s)

    async def kill_router(self) -> None:
        """Kills the router (SIGKILL). With ``restart`` a new one comes: see ``router_back``."""
        await _present(self._router).kill()

    async def kill_controller(self) -> None:
        """Kills the controller (SIGKILL). With ``restart`` a new one comes: see ``controller_back``."""
        await _present(self._controller).kill()

    async def router_back(self) -> None:
        """Waits until a new router has started since ``kill_router``."""
        await _present(self._router).back()

    async def controller_back(self) -> None:
        """Waits until a new controller has started since ``kill_controller``."""
        await _present(self._controller).back()

    async def drain(self) -> None:
        """Has everything finish what it has, and end; after ``drain_timeout_s`` by force."""
        await self._keepers.close()
        if self._router is not None and self._router.child is not None:
            await self._router.child.terminate(self._config.drain_timeout_s)
        await self._stop_controller()

    def _crashed(self, error: BaseException) -> None:
        if self._crash is not None and not self._crash.done():
            self._crash.set_result(f"nobody looks after the processes any more: {error!r}")

    async def stop(self) -> None:
        """Drains and ends everything, and removes the temporary folder. Nothing is left, whatever happens."""
        try:
            await self.drain()
        finally:
            self._sweep()

    async def _stop_controller(self) -> None:
        controller = None if self._controller is None else self._controller.child
        if controller is None or not controller.running:
            return
        if self.controller_address and await self._asked_to_shut_down():
            await controller.ended(self._config.drain_timeout_s)
        else:
            await controller.terminate(_END_TIMEOUT_S)

    async def _asked_to_shut_down(self) -> bool:
        try:
            async with ControllerClient(self.controller_address, timeout_s=_END_TIMEOUT_S) as client:
                await client.shutdown()
        except ServeError:
            return False
        return True

    def kill(self) -> None:
        """Ends everything by force, at once."""
        self._sweep()

    def _sweep(self) -> None:
        end_processes(marked_processes(self._run_id), _END_TIMEOUT_S)
        while self._held_ports:
            self._held_ports.pop().close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def process_tree(self) -> list[ProcessNode]:
        """Every process of the cluster, parents before their children."""
        nodes: list[ProcessNode] = []
        for kept in (self._controller, self._router):
            child = None if kept is None else kept.child
            if child is not None and child.running:
                with contextlib.suppress(psutil.Error):
                    _add_tree(psutil.Process(child.pid), 0, nodes)
        return nodes


def _present(kept: KeptProcess | None) -> KeptProcess:
    if kept is None:
        raise RuntimeError("the cluster was not started")
    return kept


def _port_of(announced: str, configured: int) -> int:
    """The port that the first of several processes got, or the one it is to ask for."""
    return address.split(announced)[1] if announced else configured


async def _check_free(host: str, port: int, which: str) -> None:
    if not port:
        return
    try:
        await address.check_free(host, port)
    except PortTakenError as error:
        raise PortTakenError(f"for {which}, {error.message}", details=error.details) from None


async def _result_of(future: asyncio.Future[str]) -> str:
    return await asyncio.shield(future)


def _add_tree(process: psutil.Process, depth: int, nodes: list[ProcessNode]) -> None:
    with contextlib.suppress(psutil.Error):
        nodes.append(ProcessNode(pid=process.pid, title=" ".join(process.cmdline()), depth=depth))
        for child in process.children():
            _add_tree(child, depth + 1, nodes)
