"""The side of the fork server that forks."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
from collections import deque

from serve_core.forkserver.job import Job
from serve_core.forkserver.messages import DESCRIPTORS, Fork, Forked, Lines, Message, Ready, Reap, Refused, encode
from serve_core.forkserver.paths import ImportPaths

_RECEIVE_BYTES = 256 * 1024
_DESCRIPTORS_MAX = 16


class ForkServer:
    """Does what it is told, until nobody is there to tell.

    Args:
        connection: The backend's.
        paths: What a child finds where.
    """

    def __init__(self, connection: socket.socket, paths: ImportPaths) -> None:
        self._connection = connection
        self._paths = paths
        self._lines = Lines()
        self._descriptors: deque[int] = deque()

    def serve(self) -> Job | None:
        """Returns None at the end, and in each child what it is to run."""
        # What is imported stays; a collection that visited it would copy its pages in every child.
        gc.collect()
        gc.freeze()
        self._send(Ready())
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._connection, _RECEIVE_BYTES, _DESCRIPTORS_MAX)
            self._descriptors += descriptors
            if not data:
                return None
            for message in self._lines.feed(data):
                job = self._take(message)
                if job is not None:
                    return job

    def _take(self, message: Message) -> Job | None:
        if isinstance(message, Reap):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(message.pid, os.WNOHANG)
        elif isinstance(message, Fork):
            log, folder = (self._descriptors.popleft() for _ in range(DESCRIPTORS))
            try:
                return self._fork(message, log, folder)
            finally:
                os.close(log)
                os.close(folder)
        return None

    def _fork(self, message: Fork, log: int, folder: int) -> Job | None:
        if self._abandoned():
            return None
        why = self._paths.why_not(message.environment, folder) or _why_unclean()
        if why:
            self._send(Refused(why))
            return None
        settled, settle = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(settled)
            os.close(settle)
            self._send(Refused(f"cannot fork: {error.strerror}"))
            return None
        if pid:
            os.close(settle)
            # Whoever hears of the child finds it in its own session and by its own mark. If it fails at that, it has ended.
            os.read(settled, 1)
            os.close(settled)
            self._send(Forked(pid))
            return None
        os.close(settled)
        self._connection.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        job = Job(arguments=message.arguments, environment=dict(message.environment), mark=message.mark)
        job.move_in(log, folder, self._paths)
        os.close(settle)
        return job

    def _abandoned(self) -> bool:
        """Whether who asked has ended: nobody would know of the child."""
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

    def _send(self, message: Message) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(encode(message))


def _why_unclean() -> str:
    threads = len(os.listdir("/proc/self/task"))
    return f"the fork server has {threads} threads" if threads > 1 else ""
