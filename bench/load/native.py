"""The load generator in C (``calls.c``): closed and open loops of single calls, and of pairs. A call costs it a microsecond or two.

It is compiled when a benchmark begins, if there is a compiler: ``make bench-tools``. It knows nothing of gRPC but its frames: what
it sends is made here.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import http2
from bench.load.http2 import HeaderTable
from bench.load.messages import ECHO, echo_request, framed
from bench.load.pairs import RESERVE, reserve_request
from bench.measure.errors import MeasurementError
from bench.report.statistics import closed_loop_ms, open_loop_ms
from serve_core.wire.metadata import SLOT_KEY

CONNECTIONS_MAX = 8
GRACE_S = 30.0
KINDS = frozenset(("closed", "open", "pairs"))
"""Which loads it can offer."""
SOURCE = Path(__file__).with_name("calls.c")

Answer = dict[str, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a load.

    Attributes:
        headers: In their order.
        body: Its message, framed.
        answer_bytes: The framed answer's length; 0 for one that ends with a token.
        token_key: The header whose value is the token of the step before; empty for the first step.
    """

    headers: http2.Headers
    body: bytes
    answer_bytes: int = 0
    token_key: str = ""


def single(address: str, size: int) -> Sequence[Step]:
    """An echo of so many bytes."""
    message = framed(echo_request(size))
    return [Step(http2.grpc_request(address, ECHO), message, len(message))]


def pair(address: str, size: int, application: str) -> Sequence[Step]:
    """A reservation, and the echo that consumes its token."""
    (echo,) = single(address, size)
    reserve = Step(http2.grpc_request(address, RESERVE), framed(reserve_request(application)))
    return [reserve, Step(echo.headers, echo.body, echo.answer_bytes, SLOT_KEY)]


def blocks(steps: Sequence[Step]) -> Sequence[Sequence[bytes]]:
    """The headers of each step, for a connection that has seen none of them, one, and so on.

    Nobody comes to a step without the ones before, so that what a connection has seen is a number.
    """
    table = HeaderTable()
    found: list[list[bytes]] = [[] for _ in steps]
    for seen in range(len(steps) + 1):
        for number, step in enumerate(steps):
            known = table.block(step.headers) if number <= seen else b""
            found[number].append(known + http2.literal_name(step.token_key) if step.token_key else known)
    return found


def arguments(
    address: str, steps: Sequence[Step], *, connections: int, callers: int, load: Mapping[str, float]
) -> list[str]:
    """What ``calls.c`` is started with."""
    host, _, port = address.rpartition(":")
    numbers = [connections, callers, *(load.get(name, 0.0) for name in ("rate_s", "warm_s", "seconds"))]
    made = [
        text
        for step, known in zip(steps, blocks(steps), strict=True)
        for text in (*(one.hex() for one in known), step.body.hex(), str(step.answer_bytes))
    ]
    return [host, port, *map(str, numbers), *made]


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc")


async def compiled(folder: Path) -> Path | None:
    """Compiles the generator into a folder; None if there is no compiler.

    Raises:
        MeasurementError: It cannot be compiled.
    """
    found, made = compiler(), folder / "calls"
    if found is None:
        return None
    await _output(found, "-O2", "-o", str(made), str(SOURCE), timeout_s=GRACE_S)
    return made


async def offer(generator: Path, question: Mapping[str, Any]) -> Answer:
    """Offers one load of its ``KINDS``, as ``bench.load.offer`` does.

    Raises:
        MeasurementError: Calls failed, or did not end.
    """
    address, size, kind = question["address"], question["size"], question["kind"]
    steps = pair(address, size, question["application"]) if kind == "pairs" else single(address, size)
    callers = question.get("concurrency", CONNECTIONS_MAX)
    command = arguments(address, steps, connections=min(CONNECTIONS_MAX, callers), callers=callers, load=question)
    timeout_s = question.get("warm_s", 0.0) + question["seconds"] + GRACE_S
    return parse(await _output(str(generator), *command, timeout_s=timeout_s), scheduled=kind == "open")


def parse(output: str, *, scheduled: bool) -> Answer:
    """Reads what it printed. ``scheduled``: its calls were sent by a schedule.

    Raises:
        MeasurementError: Calls failed.
    """
    head, *rest = output.splitlines()
    ended, failed, took_s, cpu_s = (float(one) for one in head.split())
    if failed or not rest:
        raise MeasurementError(f"{failed:.0f} of {ended:.0f} calls failed")
    taken_s = [int(one) / 1e9 for one in rest]
    quantiles = open_loop_ms([0.0] * len(taken_s), taken_s) if scheduled else closed_loop_ms(taken_s)
    return {"requests": ended, "seconds": took_s, "req_s": len(taken_s) / took_s, "cpu_s": cpu_s, **quantiles}


async def _output(*command: str, timeout_s: float) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise MeasurementError(f"{Path(command[0]).name}: {errors.decode().strip() or process.returncode}")
    return output.decode()
