"""``python -m tests.contract.blocked_server``: a server whose method ``block`` blocks its event loop, until a line comes on stdin.

It says its port on the first line, and on one more each time that it is blocked. Nothing else in it uses gRPC.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from serve_core.runtime import choice, polling

OPTIONS = (("grpc.http2.max_ping_strikes", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10))


def main() -> None:
    """Serves until it is killed."""
    choice.choose(os.environ)
    polling.import_grpc(os.environ)
    asyncio.run(_serve())


async def _serve() -> None:
    from serve_core.runtime import engine
    from tests.contract.grpc_rig import Service

    async def block(request: bytes, context: Any) -> bytes:
        del request, context
        print("blocked", flush=True)
        return sys.stdin.readline().encode()

    async def one(request: bytes, context: Any) -> bytes:
        del context
        return request

    service = Service()
    service.methods["one_block"], service.methods["one"] = block, one
    server = engine.new_server((), OPTIONS, set())
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
