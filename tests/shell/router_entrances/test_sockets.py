"""What a process can tell of its own sockets, and do with them."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from router import sockets
from serve_core.runtime import address

LISTENER = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", int(sys.argv[1])))
sock.listen()
print(flush=True)
sys.stdin.read()
"""


def test_connections_are_counted_by_port() -> None:
    with address.listening_socket("127.0.0.1", 0) as listening, address.listening_socket("127.0.0.1", 0) as other:
        where = listening.getsockname()
        listening.setblocking(True)
        assert sockets.connections(where[1]) == 0
        with socket.create_connection(where), listening.accept()[0]:
            assert sockets.connections(where[1]) == 1
            assert sockets.connections(other.getsockname()[1]) == 0
        assert sockets.connections(where[1]) == 0


def test_what_is_connected_goes_on_when_nothing_new_comes() -> None:
    with address.listening_socket("127.0.0.1", 0) as listening:
        where = listening.getsockname()
        listening.setblocking(True)
        with socket.create_connection(where) as caller, listening.accept()[0] as connection:
            sockets.stop_listening(where[1])
            sockets.stop_listening(where[1])
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(where)
            caller.sendall(b"x")
            assert connection.recv(1) == b"x"
            sockets.hang_up(where[1])
            assert caller.recv(1) == b""


def test_another_process_on_the_port_is_seen() -> None:
    with address.listening_socket("127.0.0.1", 0, reuse_port=True) as listening:
        port = listening.getsockname()[1]
        assert not sockets.others_listen(port)
        command = [sys.executable, "-c", LISTENER, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert sockets.others_listen(port)
            assert not sockets.others_listen(port, besides=(other.pid,))
            listening.close()
            assert sockets.others_listen(port)
            other.communicate()
        assert not sockets.others_listen(port)
