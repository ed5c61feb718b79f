"""The ports that the workers of a router share are held for them by their parent."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from router import ports
from router.config import RouterConfig
from serve_core.errors import PortTakenError
from serve_core.runtime import address

CONFIG = RouterConfig(controller="h:1", router_id="r1", port=0, http_port=0, workers=2)


async def test_both_are_chosen_where_none_is_named() -> None:
    grpc, http = await ports.hold(CONFIG)
    with grpc, http:
        assert len({grpc.getsockname()[1], http.getsockname()[1], 0}) == 3


async def test_nobody_elses_port_is_joined_unasked() -> None:
    with address.listening_socket("127.0.0.1", 0, reuse_port=True) as taken:
        port = int(taken.getsockname()[1])
        with pytest.raises(PortTakenError, match=r"for gRPC \(--port\), the address"):
            await ports.hold(replace(CONFIG, port=port))
        with pytest.raises(PortTakenError, match=r"for HTTP \(--http-port\), the address"):
            await ports.hold(replace(CONFIG, http_port=port))
        for held in await ports.hold(replace(CONFIG, http_port=port, reuse_port=True)):
            with held:
                assert held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
