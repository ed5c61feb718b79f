"""A whole cluster on this machine: a controller, a router, and what the controller starts; all of it ends together."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from serve_core.client import ControllerClient
from serve_core.errors import ConfigInvalidError, FieldViolation, ServeError
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
        controller_port: The controller's port.
        state_dir: Where the controller keeps its records and the replicas' logs; None means a temporary folder.
        cpus: Cores to hand out; None means what the machine has.
        gpus: GPUs to hand out; None means what the machine has.
        memory_bytes: Memory to hand out; None means what the machine has.
        max_message_bytes: The largest message; None means the default.
        start_timeout_s: Seconds that the controller and the router each have to start.
        drain_timeout_s: Seconds that everything has to finish what it has when the cluster is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 0
    http_port: int = 0
    controller_port: int = 0
    state_dir: Path | None = None
    cpus: float | None = None
    gpus: float | None = None
    memory_bytes: int | None = None
    max_message_bytes: int | None = None
    start_timeout_s: float = 30.0
    drain_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessNode:
    """One process of a cluster: its id, its title, and how deep below the cluster's owner it is."""

    pid: int
    title: str
    depth: int


class LocalCluster:
    """A running cluster, as an async context manager. Leaving it drains and ends everything.

    Should this process be killed, the others end by themselves.
    """

    def __init__(self, config: LocalClusterConfig | None = None) -> None:
        self._config = config or LocalClusterConfig()
        self._run_id = uuid.uuid4().hex
        self._temporary: Path | None = None
        self._state_dir: Path | None = self._config.state_dir
        self._controller: ChildProcess | None = None
        self._router: ChildProcess | None = None
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
        config = self._config
        arguments = ["--host", config.host, "--port", str(config.controller_port), "--state-dir", str(self.state_dir)]
        for flag, value in (
            ("--cpus", config.cpus),
            ("--gpus", config.gpus),
            ("--memory-bytes", config.memory_bytes),
            ("--max-message-bytes", config.max_message_bytes),
        ):
            if value is not None:
                arguments += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        self._controller = self._child("controller", "serve_core.controller", arguments)
        announced = await self._controller.start(config.start_timeout_s)
        self.controller_address = str(announced["address"])

    async def _start_router(self) -> None:
        config = self._config
        arguments = ["--controller", self.controller_address, "--host", config.host]
        arguments += ["--port", str(config.port), "--http-port", str(config.http_port)]
        if config.max_message_bytes is not None:
            arguments += ["--max-message-bytes", str(config.max_message_bytes)]
        self._router = self._child("router", "router", arguments)
        announced = await self._router.start(config.start_timeout_s)
        self.router_address = str(announced["address"])
        self.http_address = str(announced.get("http_address", ""))

    def _child(self, role: str, module: str, arguments: list[str]) -> ChildProcess:
        return ChildProcess(
            role, module, arguments, log_path=self.state_dir / f"{role}.log", env={RUN_ENV: self._run_id}
        )

    async def broken(self) -> str:
        """Waits until the controller or the router ends unasked; says which one, and how."""
        children = [child for child in (self._controller, self._router) if child is not None]
        tasks = {asyncio.ensure_future(child.wait()): child for child in children}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        task = next(iter(done))
        child = tasks[task]
        lines = child.log_tail().splitlines()
        return f"the {child.role} ended with status {task.result()}" + (f": {lines[-1]}" if lines else "")

    async def drain(self) -> None:
        """Has everything finish what it has, and end; after ``drain_timeout_s`` by force."""
        if self._router is not None:
            await self._router.terminate(self._config.drain_timeout_s)
        await self._stop_controller()

    async def stop(self) -> None:
        """Drains and ends everything, and removes the temporary folder. Nothing is left, whatever happens."""
        try:
            await self.drain()
        finally:
            self._sweep()

    async def _stop_controller(self) -> None:
        controller = self._controller
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
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def process_tree(self) -> list[ProcessNode]:
        """Every process of the cluster, parents before their children."""
        nodes: list[ProcessNode] = []
        for child in (self._controller, self._router):
            if child is not None and child.running:
                with contextlib.suppress(psutil.Error):
                    _add_tree(psutil.Process(child.pid), 0, nodes)
        return nodes


def _add_tree(process: psutil.Process, depth: int, nodes: list[ProcessNode]) -> None:
    with contextlib.suppress(psutil.Error):
        nodes.append(ProcessNode(pid=process.pid, title=" ".join(process.cmdline()), depth=depth))
        for child in process.children():
            _add_tree(child, depth + 1, nodes)
