"""A process whose grpcio has another core than ours knows: nothing of it may be needed before that is found out."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVES = """
import asyncio, sys
import grpc, grpc.aio
from grpc._cython import cygrpc

delattr(cygrpc, sys.argv[1])
import router.relay
from serve_core.runtime import engine


async def main():
    server = engine.new_server((), (), set())
    assert isinstance(server, grpc.aio.Server)
    assert server.add_insecure_port("127.0.0.1:0")


asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["CompletionType", "WriteFlag", "GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY"])
def test_grpc_aio_serves_where_the_core_lacks_a_name(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", SERVES, name], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "serving with grpc.aio" in done.stderr
    assert f"has no {name} in its core" in done.stderr
