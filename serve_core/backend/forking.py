"""Starts processes by a fork server, which has imported their program already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence

from serve_core.backend.children import Child, Launch, SpawnedChild
from serve_core.backend.identity import ProcessIdentity, exit_code_of, find_marked, identify, open_pidfd
from serve_core.forkserver.messages import ROOM_ENV, Fork, Forked, Lines, Message, Ready, Reap, Refused, encode
from serve_core.forkserver.paths import PYTHONPATH
from serve_core.runtime import log

ANSWER_TIMEOUT_S = 10.0
"""How long it may take to import its program, or to fork."""

END_TIMEOUT_S = 5.0

_AT_START = (
    "PYTHON",
    "LD_",
    "GLIBC_",
    "MALLOC_",
    "GRPC_",
    "SERVE_CORE_SERVER",
    "OPENSSL_",
    "SSL_",
    "PROTOCOL_BUFFERS_",
    "COVERAGE_",
    "UV_",
    "LC_",
    "LANG",
    "TZ",
    "HOME",
    "VIRTUAL_ENV",
)
"""How variables begin that are read when a process starts or imports its program, which its fork server has done."""

_TITLE_ROOM = 160
_ENVIRONMENT_ROOM = 16 * 1024
_RECEIVE_BYTES = 64 * 1024
_log = log.get_logger(__name__)


class ForkedChild:
    """A process that a fork server has forked."""

    def __init__(self, identity: ProcessIdentity, server: ForkServer) -> None:
        self._identity = identity
        self._server = server

    @property
    def pid(self) -> int:
        """See ``Child``."""
        return self._identity.pid

    def exit_code(self) -> int | None:
        """See ``Child``."""
        code = exit_code_of(self._identity)
        self._server.reap(self.pid)
        return code

    def let_go(self) -> None:
        """See ``Child``."""


class ForkServer:
    """A fork server of this process, with which it ends; its children go on.

    Where it cannot be used, or would give something else than a new process, processes are started without it.

    Args:
        program: What its children run: a module with a function ``main``, or a package with such a ``__main__``.
        environment: Its environment, and so what all children have as theirs when they start.
        mark: The name of the variable that tells each child's id.
    """

    def __init__(self, program: str, environment: Mapping[str, str], mark: str) -> None:
        self._program = program
        self._environment = environment
        self._mark = mark
        self._popen: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._one_at_a_time = asyncio.Lock()
        self._begin()

    def _begin(self) -> None:
        self._ready = False
        self._lines = Lines()
        # Of one request at most, and None at the end.
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()
        # Of one request, and of the ends of children.
        self._to_send: deque[tuple[bytes, Sequence[int]]] = deque()

    @property
    def pid(self) -> int:
        """Its process id; 0 if it does not run."""
        return self._popen.pid if self._popen is not None and self._connection is not None else 0

    def open(self) -> None:
        """Starts it, and does not wait until it is ready."""
        self._begin()
        ours, its = socket.socketpair()
        ours.settimeout(0)
        with its:
            try:
                self._popen = self._spawn(its.fileno())
            except OSError as error:
                ours.close()
                _log.warning("no fork server: replicas start without it", error=str(error))
                return
        self._connection = ours
        asyncio.get_running_loop().add_reader(ours, self._on_answer)

    async def close(self) -> None:
        """Ends it, and waits for that."""
        self._disconnect()
        if self._popen is None:
            return
        try:
            await asyncio.to_thread(self._popen.wait, END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            await asyncio.to_thread(self._popen.wait)

    async def start(self, launch: Launch) -> Child:
        """Forks if that comes to the same as a new process, and else starts one.

        Raises:
            OSError: The program or its working directory cannot be used.
        """
        if not self._same_start(launch):
            return SpawnedChild(launch)
        async with self._one_at_a_time:
            pid = await self._fork(launch) if self._connection is not None else None
        identity = identify(pid) if pid is not None else None
        return SpawnedChild(launch) if identity is None else ForkedChild(identity, self)

    def reap(self, pid: int) -> None:
        """A child has ended, and its process id may be used again."""
        self._send(Reap(pid))

    def _spawn(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (sys.executable, "-m", "serve_core.forkserver", self._program, str(descriptor), "-" * _TITLE_ROOM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={**self._environment, ROOM_ENV: "-" * _ENVIRONMENT_ROOM},
            pass_fds=(descriptor,),
            start_new_session=True,
        )

    def _same_start(self, launch: Launch) -> bool:
        if tuple(launch.command[:3]) != (sys.executable, "-m", self._program):
            return False
        changed = dict(set(launch.environment.items()) ^ set(self._environment.items()))
        return not any(name.startswith(_AT_START) and name != PYTHONPATH for name in changed)

    async def _fork(self, launch: Launch) -> int | None:
        """None if it could not; then there is no such process."""
        with launch.log_path.open("ab") as log_file:
            folder = os.open(launch.working_dir or os.getcwd(), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.stat(".", dir_fd=folder)
                if not self._ready:
                    self._ready = isinstance(await self._answer(), Ready)
                self._send(Fork(launch.command[3:], launch.environment, self._mark), log_file.fileno(), folder)
                answer = await self._answer() if self._ready else None
            finally:
                os.close(folder)
        if isinstance(answer, Forked):
            return answer.pid
        if isinstance(answer, Refused):
            _log.info("started without the fork server", process=launch.process_id, why=answer.why)
            return None
        await self._give_up(f"{self._mark}={launch.process_id}")
        return None

    async def _give_up(self, mark: str) -> None:
        """It does not answer: ends it, and what it may have forked unheard."""
        _log.warning("the fork server is gone: replicas start without it")
        if self._popen is not None:
            self._popen.kill()
        await self.close()
        forked = find_marked(mark.encode())
        pidfd = open_pidfd(forked) if forked is not None else None
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)

    async def _answer(self) -> Message | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._answers.get()
        except TimeoutError:
            return None

    def _on_answer(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
        for message in self._lines.feed(data):
            self._answers.put_nowait(message)

    def _send(self, message: Message, *descriptors: int) -> None:
        if self._connection is not None:
            self._to_send.append((encode(message), descriptors))
            self._flush()

    def _flush(self) -> None:
        assert self._connection is not None
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._connection)
        while self._to_send:
            data, descriptors = self._to_send[0]
            try:
                sent = (
                    socket.send_fds(self._connection, [data], descriptors)
                    if descriptors
                    else self._connection.send(data)
                )
            except BlockingIOError:
                loop.add_writer(self._connection, self._flush)
                return
            except OSError:
                self._disconnect()
                return
            if sent == len(data):
                self._to_send.popleft()
            else:
                self._to_send[0] = (data[sent:], ())

    def _disconnect(self) -> None:
        """It ends by that."""
        if self._connection is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._connection)
        loop.remove_writer(self._connection)
        self._connection.close()
        self._connection = None
        self._to_send.clear()
        self._answers.put_nowait(None)
