"""``serve-core run``: everything for one machine, in the foreground."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import click

from serve_core.cli.instructions import how_to_call
from serve_core.cli.live import progress_view
from serve_core.cli.loglines import shown
from serve_core.cli.progress import ProgressLines
from serve_core.cli.report import run_async, say
from serve_core.cli.targets import load_target
from serve_core.client import ControllerClient
from serve_core.errors import DeploymentUnavailableError, Reason, ServeError
from serve_core.launch import LocalCluster, LocalClusterConfig
from serve_core.link.choice import VARIABLE as LINK_VARIABLE
from serve_core.link.choice import LinkKind
from serve_core.logs import LogLine, LogReader, follow
from serve_core.model.backoff import Backoff
from serve_core.model.spec import ApplicationSpec
from serve_core.runtime.choice import VARIABLE, Engine
from serve_core.runtime.supervisor import Supervisor
from serve_core.wire.status import decode_cluster_status

EXIT_FORCED = 70
WATCH_AGAIN = Backoff(initial_s=0.1, factor=2.0, max_s=2.0, jitter=0.5)

_AWAY = frozenset((Reason.CONTROLLER_UNREACHABLE, Reason.DRAINING))


@click.command()
@click.argument("target", metavar="MODULE:ATTR|FILE.yaml")
@click.option("--name", default="default", show_default=True, help="The application's name, for MODULE:ATTR.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="gRPC; 0: any free one.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="HTTP/JSON; 0: any.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    envvar="SERVE_CORE_ROUTER_WORKERS",
    show_envvar=True,
    help="Router processes that share those ports.",
)
@click.option(
    "--controller-port", type=click.IntRange(0, 65535), default=7070, show_default=True, help="For other commands."
)
@click.option(
    "--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Records and logs; default: temporary."
)
@click.option("--cpus", type=click.FloatRange(min=0), help="Cores to hand out; default: those of the machine.")
@click.option("--gpus", type=click.FloatRange(min=0), help="GPUs to hand out; default: those of the machine.")
@click.option(
    "--nodes",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="YAML file that divides the machine into virtual nodes; then it hands out what that says.",
)
@click.option(
    "--server",
    type=click.Choice([engine.value for engine in Engine]),
    envvar=VARIABLE,
    show_envvar=True,
    help="What serves gRPC: our own on grpcio's core (the default where it can), or grpc.aio.",
)
@click.option(
    "--link",
    type=click.Choice([kind.value for kind in LinkKind]),
    envvar=LINK_VARIABLE,
    show_envvar=True,
    help="What carries calls from routers to replicas together: a socket on one host (the default), gRPC, or nothing.",
)
@click.option("--max-message-bytes", type=click.IntRange(min=1024), help="The largest message.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything to become ready.",
)
@click.option(
    "--drain-timeout",
    "drain_timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything to finish what it has after Ctrl-C.",
)
@click.option(
    "--restart/--no-restart", default=True, show_default=True, help="Start a dead controller or router again."
)
@click.option("--logs/--no-logs", default=True, show_default=True, help="Show what the replicas write.")
def run(
    target: str,
    name: str,
    host: str,
    port: int,
    http_port: int,
    workers: int,
    controller_port: int,
    state_dir: Path | None,
    cpus: float | None,
    gpus: float | None,
    nodes: Path | None,
    server: str | None,
    link: str | None,
    max_message_bytes: int | None,
    timeout_s: float,
    drain_timeout_s: float,
    *,
    restart: bool,
    logs: bool,
) -> int:
    """Start a controller, a router and the replicas of TARGET, and serve until Ctrl-C, which drains.

    A second Ctrl-C ends everything at once. A deployment that fails to start once is not tried again, unless it says
    so with max_start_failures.
    """
    if server is not None:
        os.environ[VARIABLE] = server
    if link is not None:
        os.environ[LINK_VARIABLE] = link
    specs = load_target(target, name=name, defaults={"max_start_failures": 1})
    config = LocalClusterConfig(
        host=host,
        port=port,
        http_port=http_port,
        workers=workers,
        controller_port=controller_port,
        state_dir=state_dir,
        cpus=cpus,
        gpus=gpus,
        nodes=nodes.absolute() if nodes is not None else None,
        max_message_bytes=max_message_bytes,
        drain_timeout_s=drain_timeout_s,
        restart=restart,
    )
    return run_async(_Run(specs, LocalCluster(config, tell=say), timeout_s, workers=workers, logs=logs).main())


class _Run:
    """One ``serve-core run``, from start to end."""

    def __init__(
        self, specs: list[ApplicationSpec], cluster: LocalCluster, timeout_s: float, *, workers: int, logs: bool
    ) -> None:
        self._specs = specs
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._workers = workers
        self._logs = logs
        self._stop = asyncio.Event()
        self._lines = ProgressLines(say)

    async def main(self) -> int:
        """Serves until asked to stop."""
        self._listen()
        reader: LogReader | None = None
        try:
            async with Supervisor("run") as tasks:
                starting = tasks.spawn(self._start(), name="start")
                if not await self._unless_stopped(starting):
                    return 0
                reader = LogReader(self._cluster.logs_dir)
                if self._logs:
                    tasks.spawn(self._show_logs(reader), name="logs")
                tasks.spawn(self._watch_children(), name="children")
                if not await self._unless_stopped(tasks.spawn(self._deploy(), name="deploy")):
                    return 0
                tasks.spawn(self._watch_status(), name="status")
                await self._stop.wait()
        finally:
            await self._finish(reader)
        return 0

    async def _finish(self, reader: LogReader | None) -> None:
        if reader is not None:
            say("draining; Ctrl-C again ends everything at once")
        # The stop event may have been set once already: from here on a signal ends everything.
        self._on_signal(self._force)
        rest: list[LogLine] = []
        try:
            await self._cluster.drain()
            if reader is not None and self._logs:
                rest = reader.rest()
        finally:
            await self._cluster.stop()
        for line in rest:
            _show(line)
        if reader is not None:
            say("stopped")

    async def _unless_stopped(self, task: asyncio.Task[None]) -> bool:
        """Waits for a step; False if the user wants to stop before it is done."""
        async with Supervisor("step") as tasks:
            stopping = tasks.spawn(self._stop.wait(), name="stop")
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True

    async def _start(self) -> None:
        say("starting a controller and a router")
        await self._cluster.start()
        say(f"controller at {self._cluster.controller_address}, pid {self._cluster.controller_pid}")
        crowd = f" ({self._workers} workers)" if self._workers > 1 else ""
        say(f"router at {self._cluster.router_address}{crowd}, pid {self._cluster.router_pid}")

    async def _deploy(self) -> None:
        async with ControllerClient(self._cluster.controller_address) as client:
            generations = {spec.name: await client.deploy(spec) for spec in self._specs}
            with progress_view(self._lines) as report:
                for name, generation in generations.items():
                    await client.wait_ready(name, generation=generation, timeout_s=self._timeout_s, report=report)
            status = await client.status()
        cluster = self._cluster
        for line in how_to_call(status, cluster.controller_address, cluster.router_address, cluster.http_address):
            click.echo(line)
        say("serving; Ctrl-C stops")

    async def _watch_status(self) -> None:
        attempt = 0
        while True:
            try:
                async with (
                    ControllerClient(self._cluster.controller_address) as client,
                    aclosing(client.watch()) as states,
                ):
                    async for message in states:
                        attempt = 0
                        self._lines.report(decode_cluster_status(message))
            except ServeError as error:
                if error.reason not in _AWAY:
                    raise
            # Whether it comes back is for _watch_children to know.
            await asyncio.sleep(WATCH_AGAIN.delay_s(attempt, random.Random().random()))
            attempt += 1

    async def _watch_children(self) -> None:
        how = await self._cluster.broken()
        raise DeploymentUnavailableError(f"{how}; see {self._cluster.state_dir}")

    async def _show_logs(self, reader: LogReader) -> None:
        async for line in follow(reader, self._cluster.logs_dir):
            _show(line)

    def _listen(self) -> None:
        self._on_signal(self._asked)

    def _asked(self) -> None:
        self._stop.set()
        self._on_signal(self._force)

    def _force(self) -> None:
        self._cluster.kill()
        os._exit(EXIT_FORCED)

    def _on_signal(self, handler: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, handler)


def _show(line: LogLine) -> None:
    text = shown(line)
    if text is not None:
        say(text)
