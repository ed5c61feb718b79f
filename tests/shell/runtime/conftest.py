"""A server with health and reflection, and a channel to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest

from serve_core.runtime.channel import open_channel
from serve_core.runtime.server import Server
from serve_core.runtime.standard import StandardServices, add_standard_services


@dataclass(frozen=True)
class Running:
    server: Server
    standard: StandardServices
    channel: grpc.aio.Channel
    address: str


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    server = Server("127.0.0.1", 0)
    standard = add_standard_services(server)
    address = await server.start()
    channel = open_channel(address)
    yield Running(server, standard, channel, address)
    await channel.close()
    await server.stop(0)
