"""A server's own sockets, as the system knows them: what grpcio does not tell of its connections, nor do with them.

grpcio can only stop listening, tell its clients to leave, and kill calls that are on their way, all three at once. Here
each has its own verb. Everything is found by the port that this process listens on, under ``/proc``; where there is
none, nothing is found, and servers end the way grpcio ends them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

_DESCRIPTORS = Path("/proc/self/fd")
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING = "0A"


def connections(port: int) -> int:
    """How many connections callers hold to a port of this process."""
    return len({_inode(sock) for sock in _own(port) if not _listens(sock) and _connected(sock)})


def stop_listening(port: int) -> None:
    """Has no new connection come to this process. Those that it has go on."""
    for sock in _own(port):
        if _listens(sock):
            _shut(sock)


def hang_up(port: int) -> None:
    """Ends every connection of callers, whatever is on it: what they sent and nobody read counts as not delivered."""
    for sock in _own(port):
        if not _listens(sock):
            _shut(sock)


def others_listen(port: int, *, besides: Collection[int] = ()) -> bool:
    """Whether another process listens on a port of this one; ``besides`` are processes that do not count."""
    others = set(_listening_inodes(port))
    if others:
        others -= {_inode(sock) for sock in _own(port)}
    for pid in besides:
        if others:
            others -= set(_inodes_of(pid))
    return bool(others)


def siblings() -> frozenset[int]:
    """The other processes that this one's parent has started."""
    try:
        children = psutil.Process(os.getppid()).children()
    except psutil.Error:
        return frozenset()
    return frozenset(child.pid for child in children) - {os.getpid()}


def _own(port: int) -> Iterator[socket.socket]:
    """This process's TCP sockets with this local port, each open for as long as it is looked at."""
    try:
        names = [int(entry.name) for entry in _DESCRIPTORS.iterdir()]
    except OSError:
        return
    for name in names:
        sock = _duplicate(name)
        if sock is None:
            continue
        with sock:
            if _local_port(sock) == port:
                yield sock


def _duplicate(descriptor: int) -> socket.socket | None:
    """The socket behind a descriptor, or None. The owner may close its own meanwhile, and take the number for another."""
    try:
        if not os.readlink(_DESCRIPTORS / str(descriptor)).startswith("socket:"):
            return None
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def _local_port(sock: socket.socket) -> int:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type is not socket.SOCK_STREAM:
        return 0
    with contextlib.suppress(OSError):
        return int(sock.getsockname()[1])
    return 0


def _listens(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False


def _connected(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        sock.getpeername()
        return True
    return False


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _shut(sock: socket.socket) -> None:
    # Of a listening socket, this ends the listening, and its server sees it close.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _inodes_of(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            # Closed meanwhile, it is no socket.
            with contextlib.suppress(OSError):
                kind, _, inode = os.readlink(entry).partition(":")
                if kind == "socket":
                    yield int(inode.strip("[]"))


def _listening_inodes(port: int) -> Iterator[int]:
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield int(fields[9])
