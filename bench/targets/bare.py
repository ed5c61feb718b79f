"""The baseline, as a program: the echo on a bare grpc.aio server in one process. Prints its address."""

from __future__ import annotations

import grpc
import uvloop

from bench.targets.echo import Echo
from echo.v1 import echo_pb2_grpc

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


async def main() -> None:
    server = grpc.aio.server(options=UNLIMITED)
    echo_pb2_grpc.add_EchoServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
