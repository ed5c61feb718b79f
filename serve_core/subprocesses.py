"""Child processes of one machine's cluster: started until they say that they are ready, and ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from serve_core.errors import ERROR_TYPES, ConfigInvalidError, FieldViolation, Reason, ServeError, StartTimedOutError
from serve_core.runtime.process import parse_announcement

RUN_ENV = "SERVE_CORE_RUN"
"""Marks every process of one ``LocalCluster``, and what those start."""

_ERROR_LINE = re.compile(r"^error: ([A-Z_]+): (.*)$")
_TAIL_BYTES = 16 * 1024
_LINE_BYTES_MAX = 64 * 1024


class _Output:
    """The reading end of a pipe, as event loops want it: it is closed by the loop that it is given to, and by nobody else.

    A file would close its descriptor in the end, which uvloop has then closed before if it was interrupted while it connected to it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)


class _Running:
    """A child under watch: what it writes to stdout, and when it ends.

    Not asyncio's own: on uvloop that forks with every library's fork handlers, and gRPC's may crash the child or us.

    Attributes:
        ended: Set once it has ended and was waited for.
        stdout: Ends when the process does.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.ended = asyncio.Event()
        self.stdout = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
        self._popen = popen
        self._pipe: asyncio.ReadTransport | None = None
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def status(self) -> int:
        """How it ended; negative for a signal."""
        return self._popen.returncode

    async def listen(self) -> None:
        """Takes what it writes to stdout. For once."""
        assert self._popen.stdout is not None
        output = _Output(os.dup(self._popen.stdout.fileno()))
        self._popen.stdout.close()
        self._pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.stdout), output
        )

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()
        if self._pipe is not None:
            self._pipe.close()
        else:
            self.stdout.feed_eof()
        self.ended.set()


class ChildProcess:
    """One of our own processes, started as ``python -m MODULE``.

    Args:
        role: What it is, for messages.
        module: The module to run.
        arguments: Its command line.
        log_path: Where its stderr goes; None means to that of this process.
        env: Variables that are added to those of this process.
    """

    def __init__(
        self, role: str, module: str, arguments: Sequence[str], *, log_path: Path | None, env: Mapping[str, str]
    ) -> None:
        self._role = role
        # -P: what lies in the user's working directory must not take the place of our own modules.
        self._command = (sys.executable, "-P", "-m", module, *arguments, "--die-with", str(os.getpid()))
        self._log_path = log_path
        self._env = env
        self._process: _Running | None = None

    @property
    def role(self) -> str:
        """What it is."""
        return self._role

    @property
    def pid(self) -> int:
        """Its process id; 0 before it was started."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and not self._process.ended.is_set()

    async def start(self, timeout_s: float) -> dict[str, Any]:
        """Starts it, waits until it listens, and gives what it announced.

        Raises:
            ServeError: What it said that kept it from starting. It has ended then.
            StartTimedOutError: It was not ready within ``timeout_s`` seconds. It was ended.
        """
        child = self._process = _Running(self._spawn())
        try:
            async with asyncio.timeout(timeout_s):
                await child.listen()
                announced = await _announcement(child)
        except TimeoutError:
            await self.kill()
            raise StartTimedOutError(
                f"the {self._role} was not ready within {timeout_s:g} s; see {self._log_path or 'its log'}",
                details={"role": self._role, "timeoutS": f"{timeout_s:g}"},
            ) from None
        except BaseException:
            await self.kill()
            raise
        if announced is None:
            raise self._failure(await self.wait())
        return announced

    def _spawn(self) -> subprocess.Popen[bytes]:
        with contextlib.nullcontext() if self._log_path is None else self._log_path.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # A Ctrl-C in the terminal is for the parent, which then ends its children in order.
                start_new_session=True,
                env={**os.environ, **self._env},
            )

    def _failure(self, status: int) -> ServeError:
        if self._log_path is None:
            return _error(Reason.CONFIG_INVALID, f"the {self._role} ended with status {status}, as told above")
        lines = self.log_tail().splitlines()
        for line in reversed(lines):
            match = _ERROR_LINE.match(line)
            if match is not None and match[1] in Reason.__members__:
                return _error(Reason(match[1]), match[2])
        said = lines[-1] if lines else "it said nothing"
        return _error(Reason.CONFIG_INVALID, f"the {self._role} ended with status {status}: {said}")

    def log_tail(self) -> str:
        """The end of what it wrote to stderr, if that is kept apart."""
        if self._log_path is None:
            return ""
        with contextlib.suppress(OSError), self._log_path.open("rb") as log:
            log.seek(max(0, self._log_path.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")
        return ""

    async def wait(self) -> int:
        """Waits until it ends; its exit status. Whatever else it writes to stdout is dropped."""
        if self._process is None:
            return 0
        while await self._process.stdout.read(_LINE_BYTES_MAX):
            pass
        await self._process.ended.wait()
        return self._process.status

    async def terminate(self, timeout_s: float) -> bool:
        """Asks it to end and waits; after ``timeout_s`` seconds ends it by force. Whether it ended by itself."""
        if not self.running:
            return True
        self._signal(signal.SIGTERM)
        return await self.ended(timeout_s)

    async def ended(self, timeout_s: float) -> bool:
        """Waits until it ends; after ``timeout_s`` seconds ends it by force. Whether it ended by itself."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._exited()
        except TimeoutError:
            await self.kill()
            return False
        return True

    async def kill(self) -> None:
        """Ends it by force."""
        self.send_kill()
        await self._exited()

    def send_kill(self) -> None:
        """Tells the system to end it, and does not wait."""
        if self.running:
            self._signal(signal.SIGKILL)

    async def _exited(self) -> None:
        if self._process is not None:
            await self._process.ended.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send(number)


async def _announcement(child: _Running) -> dict[str, Any] | None:
    while line := await child.stdout.readline():
        announced = parse_announcement(line.decode(errors="replace"))
        if announced is not None:
            return announced[1]
    return None


def _error(reason: Reason, message: str) -> ServeError:
    kind = ERROR_TYPES[reason]
    if issubclass(kind, ConfigInvalidError):
        return ConfigInvalidError([FieldViolation("start", message)], what="the process")
    return kind(message)


def marked_processes(run_id: str) -> list[psutil.Process]:
    """Every process that carries the mark of a cluster, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ENV) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def end_processes(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    """Ends processes by force and waits until they are gone, ``timeout_s`` seconds at most."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=timeout_s)
