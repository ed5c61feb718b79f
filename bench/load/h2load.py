"""h2load, the load generator of nghttp2, in C: what it costs stays small beside what it measures."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.messages import framed
from bench.measure.errors import MeasurementError

CONNECTIONS_MAX = 8
WARM_UP_S = 0.1
GRACE_S = 30.0
GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")

_REQUESTS = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded")
_DATA = re.compile(r"\((\d+)\) data")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a run showed: requests that succeeded, bytes of data that came back, and what each took in seconds."""

    requests: int
    data_bytes: int
    taken_s: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent, over and over.

    Attributes:
        path: Of the method.
        body: What is posted.
        answer_bytes: Data that each answer must have. gRPC says 200 to a call that fails, and sends no data.
        headers: ``NAME: VALUE`` of each.
        http1: Whether to speak HTTP/1.1.
    """

    path: str
    body: bytes
    answer_bytes: int
    headers: Sequence[str] = field(default=GRPC_HEADERS)
    http1: bool = False

    @classmethod
    def grpc(cls, path: str, message: bytes, *, headers: Sequence[str] = ()) -> Request:
        """A unary call that is answered by what it sent."""
        body = framed(message)
        return cls(path=path, body=body, answer_bytes=len(body), headers=(*GRPC_HEADERS, *headers))


def available() -> bool:
    """Whether it is installed: ``make bench-tools`` does that."""
    return shutil.which("h2load") is not None


def parse(output: str, log: str) -> Answered:
    """Reads what it printed and what it logged.

    Raises:
        MeasurementError: Requests failed, or it printed something else.
    """
    requests, data = _REQUESTS.search(output), _DATA.search(output)
    if requests is None or data is None:
        raise MeasurementError(f"h2load printed something else than was expected:\n{output}")
    done, succeeded = (int(one) for one in requests.groups())
    if done != succeeded or not done:
        raise MeasurementError(f"{done - succeeded} of {done} requests failed:\n{output}")
    taken_s = [int(line.rsplit("\t", 1)[1]) / 1e6 for line in log.splitlines()]
    return Answered(done, int(data[1]), taken_s)


async def run(address: str, request: Request, *, concurrency: int, seconds: float, folder: Path) -> Answered:
    """Posts from so many callers at once, for so long, over a few connections.

    Args:
        address: ``HOST:PORT``.
        request: What is sent.
        concurrency: Requests at once.
        seconds: How long.
        folder: Where its files may be.

    Raises:
        MeasurementError: The server did not answer as it should.
    """
    connections = concurrency if request.http1 else min(CONNECTIONS_MAX, concurrency)
    body, log = folder / "h2load.body", folder / "h2load.log"
    body.write_bytes(request.body)
    log.write_text("")
    command = [
        *("h2load", f"--clients={connections}", f"--max-concurrent-streams={concurrency // connections}"),
        *(f"--duration={int(seconds * 1000)}ms", f"--warm-up-time={int(WARM_UP_S * 1000)}ms"),
        *(f"--data={body}", f"--log-file={log}", *(f"--header={one}" for one in request.headers)),
        *(["--h1"] if request.http1 else []),
        f"http://{address}{request.path}",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds + GRACE_S):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    answered = parse(output.decode(), log.read_text())
    if answered.data_bytes < answered.requests * request.answer_bytes:
        raise MeasurementError(f"answers of {address} have less data than they should: calls failed")
    return answered
