"""The baseline, as a program: the echo on a bare grpc.aio server in one process. Prints its address."""

from __future__ import annotations

import grpc
import uvloop

from bench.targets.echo import Echo
from echo.v1 import echo_pb2_grpc

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
PENDING_CALLS_MAX = 1 << 14
PATIENT = (
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
)
"""Or gRPC cuts off calls at random once 1,000 wait for the event loop, as they do at a given rate when it is held up for a tenth
of a second: what they would have waited would be missing in the tail. serve-core's servers have the same limit."""


async def main() -> None:
    server = grpc.aio.server(options=(*UNLIMITED, *PATIENT))
    echo_pb2_grpc.add_EchoServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
