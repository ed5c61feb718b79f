"""The load generator in C (``calls.c``): closed and open loops of single calls, pairs, and streams of items.

It is compiled when a benchmark begins, if there is a compiler: ``make bench-tools``. It knows nothing of gRPC but its frames: what
it sends is made here. What it asks of the kernel is the most of what it costs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import http2
from bench.load.http2 import HeaderTable
from bench.load.messages import ECHO, ITEMS, echo_request, framed, items_request
from bench.load.pairs import RESERVE, reserve_request
from bench.measure.errors import MeasurementError
from bench.report.statistics import closed_loop_ms, open_loop_ms, quantile
from serve_core.wire.metadata import SLOT_KEY

CONNECTIONS_MAX = 8
GRACE_S = 30.0
KINDS = frozenset(("closed", "open", "pairs", "items"))
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


def stream(address: str, question: Mapping[str, Any]) -> Sequence[Step]:
    """So many items of so many bytes."""
    count, size = question["count"], question["size"]
    message = framed(items_request(count, size, question["every_ms"]))
    return [Step(http2.grpc_request(address, ITEMS), message, count * item_bytes(size))]


def item_bytes(size: int) -> int:
    """The length of an item, framed."""
    return len(framed(echo_request(size)))


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


def arguments(address: str, steps: Sequence[Step], *, callers: int, item: int, load: Mapping[str, float]) -> list[str]:
    """What ``calls.c`` is started with."""
    host, _, port = address.rpartition(":")
    numbers = (load.get(name, 0.0) for name in ("rate_s", "warm_s", "seconds"))
    made = [
        text
        for step, known in zip(steps, blocks(steps), strict=True)
        for text in (*(one.hex() for one in known), step.body.hex(), str(step.answer_bytes))
    ]
    return [host, port, *map(str, (min(CONNECTIONS_MAX, callers), callers, *numbers, item)), *made]


def compiler() -> str | None:
    """A C compiler with the headers of the C library, if there is one."""
    found = shutil.which("cc")
    if found is None:
        return None
    with_headers = (found, "-fsyntax-only", "-include", "stdio.h", "-x", "c", os.devnull)
    return found if subprocess.run(with_headers, capture_output=True, check=False).returncode == 0 else None


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
    item, callers = 0, question.get("concurrency", CONNECTIONS_MAX)
    if kind == "items":
        steps, item, callers = stream(address, question), item_bytes(size), question["streams"]
    else:
        steps = pair(address, size, question["application"]) if kind == "pairs" else single(address, size)
    command = arguments(address, steps, callers=callers, item=item, load=question)
    timeout_s = question.get("warm_s", 0.0) + question.get("seconds", 0.0) + GRACE_S
    output = await _output(str(generator), *command, timeout_s=timeout_s)
    return items(output, question["count"]) if item else calls(output, scheduled=kind == "open")


def calls(output: str, *, scheduled: bool) -> Answer:
    """Reads what it printed of calls. ``scheduled``: they were sent by a schedule.

    Raises:
        MeasurementError: Calls failed.
    """
    ended, failed, took_s, cpu_s, taken_s = _read(output)
    if failed or not taken_s:
        raise MeasurementError(f"{failed:.0f} of {ended:.0f} calls failed")
    quantiles = open_loop_ms([0.0] * len(taken_s), taken_s) if scheduled else closed_loop_ms(taken_s)
    return {"requests": ended, "seconds": took_s, "req_s": len(taken_s) / took_s, "cpu_s": cpu_s, **quantiles}


def items(output: str, count: int) -> Answer:
    """Reads what it printed of streams of ``count`` items; one item counts as one request.

    Raises:
        MeasurementError: Streams ended early.
    """
    streams, broken, took_s, cpu_s, gaps_s = _read(output)
    if broken:
        raise MeasurementError(f"{broken:.0f} of {streams:.0f} streams did not end with their last item")
    gaps_s.sort()
    return {
        "requests": streams * count,
        "seconds": took_s,
        "items_s": streams * count / took_s,
        "cpu_s": cpu_s,
        "gap_p50_ms": quantile(gaps_s, 0.5) * 1000,
        "gap_p99_ms": quantile(gaps_s, 0.99) * 1000,
    }


def _read(output: str) -> tuple[float, float, float, float, list[float]]:
    head, *rest = output.splitlines()
    ended, failed, took_s, cpu_s = (float(one) for one in head.split())
    return ended, failed, took_s, cpu_s, [int(one) / 1e9 for one in rest]


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
