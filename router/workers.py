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
from serve_core.errors import ConfigInvalidError, FieldViolation
from serve_core.keeping import KeptProcess, Tell
from serve_core.model.restarts import RestartPolicy
from serve_core.runtime import address, process
from serve_core.runtime.log import get_logger
from serve_core.runtime.reports import Silence
from serve_core.runtime.scratch import scratch_folder
from serve_core.runtime.supervisor import Supervisor
from serve_core.subprocesses import ChildProcess

START_TIMEOUT_S = 30.0
END_MARGIN_S = 3.0
"""How much longer than its drain a worker may take to end, in seconds."""

LOOK_S = 1.0
SILENT_LOOKS = 15
"""A worker whose event loop has reported nothing for so many looks is ended by force: its callers hang."""

RESTARTS = RestartPolicy(restarts_max=1000)
"""More than its backoff allows within its window: a worker is never given up, for the others may serve meanwhile."""

FOLDER_PREFIX = "serve-core-router-"

MakeWorker = Callable[[int, str], ChildProcess]
"""Makes the process of the worker with this number and this router id, not started yet."""

_log = get_logger(__name__)


async def serve_workers(config: RouterConfig, options: Sequence[str], signals: process.Signals) -> int:
    """Runs workers until it is told to stop; gives its exit status.

    Args:
        config: What each of them is told, and how many they are.
        options: Those of their command line options that are not in ``config``.
        signals: When to stop.

    Raises:
        PortTakenError: Another process listens on one of the ports.
        ConfigInvalidError: Nobody can listen there, or there is no place for what they share.
        ServeError: A worker does not start.
    """
    with ExitStack() as opened:
        held = [opened.enter_context(sock) for sock in await ports.hold(config)]
        port, http_port = (int(sock.getsockname()[1]) for sock in held)
        folder = _folder(opened)

        def make(number: int, router_id: str) -> ChildProcess:
            arguments = [*_arguments(config, number, router_id, port, http_port, folder), *options]
            return ChildProcess(f"router worker {number}", "router", arguments, log_path=None, env={})

        workers = Workers(config, folder, make, tell=_log.warning)
        try:
            if await workers.started(signals.stop):
                process.announce(
                    "router",
                    address=address.join(config.host, port),
                    http_address=address.join(config.host, http_port),
                    router_id=config.router_id,
                    workers=workers.pids,
                )
                await workers.keep(signals.stop)
        finally:
            _log.info("stopping the workers", pids=workers.pids)
            await workers.stop()
    return 0


class Workers:
    """The processes.

    Args:
        config: How many they are, what they are called, and how long they may drain.
        folder: Where they report.
        make: Makes each life of each of them.
        tell: Told in one line of each end and each restart.
    """

    def __init__(self, config: RouterConfig, folder: Path, make: MakeWorker, *, tell: Tell) -> None:
        self._config = config
        self._folder = folder
        self._make = make
        self._tell = tell
        self._kept = {number: self._kept_worker(number) for number in range(1, config.workers + 1)}

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [kept.pid for kept in self._kept.values()]

    async def started(self, stop: asyncio.Event) -> bool:
        """Starts all of them, and waits until each of them listens; False if ``stop`` was set meanwhile.

        Raises:
            ServeError: One does not start, and why.
        """
        async with Supervisor("starting workers") as tasks:
            starting = tasks.spawn(self._start(), name="start")
            stopped = tasks.spawn(stop.wait(), name="stop")
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            return starting.done() and not stop.is_set()

    async def keep(self, stop: asyncio.Event) -> None:
        """Restarts each that ends, until told to stop."""
        async with Supervisor("workers") as tasks:
            for number, kept in self._kept.items():
                tasks.spawn(kept.keep(), name=f"worker {number}")
            tasks.spawn(self._end_silent(), name="silence")
            await stop.wait()

    async def stop(self) -> None:
        """Has all of them drain and end; by force those that take too long."""
        limit_s = self._config.drain_timeout_s + END_MARGIN_S
        children = [kept.child for kept in self._kept.values() if kept.child is not None]
        async with Supervisor("stopping workers") as tasks:
            for stopping in [tasks.spawn(child.terminate(limit_s), name="worker") for child in children]:
                await stopping

    async def _start(self) -> None:
        async with Supervisor("each worker") as tasks:
            for starting in [tasks.spawn(kept.start(), name="worker") for kept in self._kept.values()]:
                await starting

    async def _end_silent(self) -> None:
        silences = {number: Silence(self._folder, number) for number in self._kept}
        while True:
            await asyncio.sleep(LOOK_S)
            for number, kept in self._kept.items():
                if kept.running and silences[number].look(kept.pid) == SILENT_LOOKS:
                    self._tell(f"router worker {number} stands still; ending it by force")
                    await kept.kill()

    def _kept_worker(self, number: int) -> KeptProcess:
        lives = itertools.count(1)

        def make() -> ChildProcess:
            # A name for each life: what the dead one promised dies with it, however soon the next one comes.
            return self._make(number, f"{self._config.router_id}-{number}.{next(lives)}")

        return KeptProcess(make, start_timeout_s=START_TIMEOUT_S, policy=RESTARTS, tell=self._tell)


def _folder(opened: ExitStack) -> Path:
    try:
        return opened.enter_context(scratch_folder(FOLDER_PREFIX))
    except OSError as error:
        place = FieldViolation("workers", f"they need a folder for what they share, which cannot be made: {error}")
        raise ConfigInvalidError([place], what="the router's configuration") from None


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
