"""The same echo on Ray Serve, as a program for the Python that has ``ray[serve]``: see ``make bench-ray``.

Its mode is in the environment, where Ray Serve looks for it. Prints a line of JSON once the echo answers: where it is, and how
long that took. Each further line of its input asks for something as JSON, and is answered by a line of JSON.
"""

# ruff: noqa: E402 - that an import takes its time is a part of what is measured
from __future__ import annotations

import time

BEGUN_AT = time.perf_counter()

import contextlib
import json
import os
import socket
import sys
from typing import Any

import grpc
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from starlette.requests import Request
from starlette.responses import Response

from bench.load.closed import in_a_loop
from bench.load.messages import ECHO, echo_request
from echo.v1 import echo_pb2

IMPORTED_AT = time.perf_counter()
TIMEOUT_S = 60.0
CALLERS_CPUS = 0


@serve.deployment(name="Echo", max_ongoing_requests=512, max_queued_requests=4096, ray_actor_options={"num_cpus": 0.1})
class Echo:
    """Gives back what it got: to gRPC, to HTTP, and to handles."""

    async def Echo(self, request: echo_pb2.EchoRequest) -> echo_pb2.EchoResponse:
        return echo_pb2.EchoResponse(data=request.data)

    async def __call__(self, request: Request) -> Response:
        return Response(await request.body())

    async def echo(self, data: bytes) -> bytes:
        return data


@serve.deployment(name="Trivial", ray_actor_options={"num_cpus": 0.1})
class Trivial:
    """What is started many times."""

    def __init__(self, version: int) -> None:
        self._version = version

    async def __call__(self, request: Request) -> int:
        return self._version


@ray.remote(num_cpus=CALLERS_CPUS)
class Callers:
    """Callers by handle, in an actor of their own."""

    def __init__(self) -> None:
        self._echo = serve.get_app_handle("echo").echo

    async def pid(self) -> int:
        return os.getpid()

    async def measure(self, way: str, concurrency: int, seconds: float, size: int) -> dict[str, float]:
        data = b"x" * size
        call = {"remote": self.remotely, "reserved": self.reserved}[way]
        await call(data)
        return await in_a_loop(lambda: call(data), concurrency, seconds)

    async def remotely(self, data: bytes) -> None:
        check(await self._echo.remote(data), data)

    async def reserved(self, data: bytes) -> None:
        async with self._echo.choose_replica(data) as selection:
            check(await self._echo.dispatch(selection, data), data)


def check(answer: bytes, wanted: bytes) -> None:
    if answer != wanted:
        raise ValueError("the echo differs")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answered(address: str) -> None:
    """Waits until the echo answers by gRPC, which is what a first caller does."""
    request = echo_request(1)
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(ECHO)
        deadline = time.perf_counter() + TIMEOUT_S
        while time.perf_counter() < deadline:
            with contextlib.suppress(grpc.RpcError):
                check(call(request, metadata=(("application", "echo"),), timeout=TIMEOUT_S), request)
                return
            time.sleep(0.05)
    raise SystemExit("Ray Serve's gRPC proxy does not answer")


def start() -> dict[str, Any]:
    """Starts everything, and says how long that took."""
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    init_at = time.perf_counter()
    grpc_port, http_port = free_port(), free_port()
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(
            port=grpc_port, grpc_servicer_functions=["echo.v1.echo_pb2_grpc.add_EchoServiceServicer_to_server"]
        ),
    )
    serve.run(Echo.bind(), name="echo", route_prefix="/")
    answered(f"127.0.0.1:{grpc_port}")
    return {
        "grpc": f"127.0.0.1:{grpc_port}",
        "http": f"127.0.0.1:{http_port}",
        "version": ray.__version__,
        "import_s": IMPORTED_AT - BEGUN_AT,
        "init_s": init_at - IMPORTED_AT,
        "serve_s": time.perf_counter() - init_at,
    }


class Answers:
    """What may be asked, by the name of the method."""

    def __init__(self) -> None:
        self._callers: Any = None
        self._version = 0

    def callers(self) -> dict[str, float]:
        """Starts the callers; their process."""
        self._callers = Callers.remote()
        return {"pid": ray.get(self._callers.pid.remote())}

    def call(self, way: str, concurrency: int, seconds: float, size: int) -> dict[str, float]:
        """Has the callers call for a while."""
        measured: dict[str, float] = ray.get(self._callers.measure.remote(way, concurrency, seconds, size))
        return measured

    def replicas(self, count: int) -> dict[str, float]:
        """So many trivial replicas of a new version, from none or in the place of the last: until all are ready."""
        self._version += 1
        start = time.perf_counter()
        serve.run(Trivial.options(num_replicas=count).bind(self._version), name="trivial", route_prefix="/trivial")
        return {"took_s": time.perf_counter() - start}

    def delete(self) -> dict[str, float]:
        """No trivial replicas any more."""
        start = time.perf_counter()
        serve.delete("trivial")
        return {"took_s": time.perf_counter() - start}


def main() -> None:
    # What Ray prints goes where errors go: our output is for answers alone.
    output, sys.stdout = sys.stdout, sys.stderr
    output.write(json.dumps(start()) + "\n")
    output.flush()
    answers = Answers()
    for line in sys.stdin:
        question = json.loads(line)
        output.write(json.dumps(getattr(answers, question.pop("ask"))(**question)) + "\n")
        output.flush()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
