"""Several router processes behind the same ports: started together, each started again when it dies, ended together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from router import ports
from router.config import RouterConfig
from serve_core.keeping import KeptProcess
from serve_core.model.restarts import RestartPolicy
from serve_core.runtime import address, process
from serve_core.runtime.log import get_logger
from serve_core.runtime.scratch import scratch_folder
from serve_core.runtime.supervisor import Supervisor
from serve_core.subprocesses import ChildProcess

START_TIMEOUT_S = 30.0
END_MARGIN_S = 3.0
"""How much longer than its drain a worker may take to end, in seconds."""

RESTARTS = RestartPolicy(restarts_max=1000)
"""More than its backoff allows within its window: a worker is never given up, for the others may serve meanwhile."""

FOLDER_PREFIX = "serve-core-router-"

_log = get_logger(__name__)


async def serve_workers(config: RouterConfig, options: Sequence[str], signals: process.Signals) -> int:
    """Runs workers until it is told to stop; gives its exit status.

    Args:
        config: What each of them is told, and how many they are.
        options: Those of their command line options that are not in ``config``.
        signals: When to stop.

    Raises:
        PortTakenError: Another process listens on one of the ports.
        ConfigInvalidError: Nobody can listen there.
        ServeError: A worker does not start.
    """
    with ExitStack() as opened:
        held = [opened.enter_context(sock) for sock in await ports.hold(config)]
        port, http_port = (int(sock.getsockname()[1]) for sock in held)
        folder = opened.enter_context(scratch_folder(FOLDER_PREFIX))

        def arguments(number: int, router_id: str) -> list[str]:
            return [*_arguments(config, number, router_id, port, http_port, folder), *options]

        workers = Workers(config, arguments)
        try:
            if await _unless_stopped(workers, signals):
                process.announce(
                    "router",
                    address=address.join(config.host, port),
                    http_address=address.join(config.host, http_port),
                    router_id=config.router_id,
                    workers=workers.pids,
                )
                await workers.keep(signals)
        finally:
            await workers.stop()
    return 0


class Workers:
    """The processes.

    Args:
        config: How many they are, what they are called, and how long they may drain.
        arguments: The command line of a worker with this number and this router id.
    """

    def __init__(self, config: RouterConfig, arguments: Callable[[int, str], list[str]]) -> None:
        self._config = config
        self._arguments = arguments
        self._kept = [self._kept_worker(number) for number in range(1, config.workers + 1)]

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [kept.pid for kept in self._kept]

    async def start(self) -> None:
        """Starts all of them, and waits until each of them listens.

        Raises:
            ServeError: One does not start, and why.
        """
        async with Supervisor("starting workers") as tasks:
            starting = [tasks.spawn(kept.start(), name="worker") for kept in self._kept]
            await asyncio.wait(starting)

    async def keep(self, signals: process.Signals) -> None:
        """Restarts each that ends, until told to stop."""
        async with Supervisor("workers") as tasks:
            for kept in self._kept:
                tasks.spawn(kept.keep(), name="worker")
            await signals.stop.wait()

    async def stop(self) -> None:
        """Has all of them drain and end; by force those that take too long."""
        limit_s = self._config.drain_timeout_s + END_MARGIN_S
        _log.info("stopping the workers", pids=self.pids)
        async with Supervisor("stopping workers") as tasks:
            stopping = [
                tasks.spawn(kept.child.terminate(limit_s), name="worker")
                for kept in self._kept
                if kept.child is not None
            ]
            if stopping:
                await asyncio.wait(stopping)

    def _kept_worker(self, number: int) -> KeptProcess:
        lives = itertools.count(1)

        def make() -> ChildProcess:
            # A name for each life: what the dead one promised dies with it, however soon the next one comes.
            router_id = f"{self._config.router_id}-{number}.{next(lives)}"
            return ChildProcess(
                f"router worker {number}", "router", self._arguments(number, router_id), log_path=None, env={}
            )

        return KeptProcess(make, start_timeout_s=START_TIMEOUT_S, policy=RESTARTS, tell=_log.warning)


async def _unless_stopped(workers: Workers, signals: process.Signals) -> bool:
    """Starts them; False if it was told to stop meanwhile."""
    async with Supervisor("start") as tasks:
        starting = tasks.spawn(workers.start(), name="start")
        stopped = tasks.spawn(signals.stop.wait(), name="stop")
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        return starting.done() and not signals.stop.is_set()


def _arguments(config: RouterConfig, number: int, router_id: str, port: int, http_port: int, folder: Path) -> list[str]:
    values: dict[str, Any] = {
        "--controller": config.controller,
        "--host": config.host,
        "--port": port,
        "--http-port": http_port,
        "--router-id": router_id,
        "--max-message-bytes": config.max_message_bytes,
        "--drain-timeout-s": config.drain_timeout_s,
        "--linger-timeout-s": config.linger_timeout_s,
        "--quiet-s": config.quiet_s,
        "--connection-age-s": config.connection_age_s,
        "--workers": config.workers,
        "--worker": number,
        "--folder": folder,
    }
    flags = ["--reuse-port", *(["--access-log"] if config.access_log else [])]
    return [*flags, *(text for option, value in values.items() for text in (option, str(value)))]
