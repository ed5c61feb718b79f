"""Joining and splitting addresses."""

from __future__ import annotations

import socket

import pytest

from serve_core.errors import ConfigInvalidError, PortTakenError
from serve_core.runtime import address


@pytest.mark.parametrize(
    ("host", "port", "joined"),
    [("127.0.0.1", 80, "127.0.0.1:80"), ("::1", 80, "[::1]:80"), ("[::1]", 80, "[::1]:80"), ("a.b", 0, "a.b:0")],
)
def test_join(host: str, port: int, joined: str) -> None:
    assert address.join(host, port) == joined
    assert address.split(joined) == (host.strip("[]"), port)


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:-1", "host:65536", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        address.split(text)


def test_those_that_share_a_port_keep_others_out() -> None:
    with address.listening_socket("127.0.0.1", 0, reuse_port=True) as first:
        port = first.getsockname()[1]
        with address.listening_socket("127.0.0.1", port, reuse_port=True) as second:
            assert second.getsockname()[1] == port
        with pytest.raises(PortTakenError):
            address.listening_socket("127.0.0.1", port)


def test_a_listening_socket_takes_its_port() -> None:
    with address.listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]

        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port} is taken by another process: choose another port"):
            address.listening_socket("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigInvalidError, match=r"host: cannot listen on 203\.0\.113\.1:80"):
        address.listening_socket("203.0.113.1", 80)


def test_a_held_port_is_for_those_that_share_it() -> None:
    with address.held_port("127.0.0.1", 0, reuse_port=True) as held:
        where = held.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)
        with address.listening_socket("127.0.0.1", where[1], reuse_port=True) as listening:
            for _ in range(4):
                with socket.create_connection(where):
                    listening.accept()[0].close()
