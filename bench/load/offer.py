"""A load generator, as a program. Each line of its input asks for one load as JSON, and is answered by a line of JSON.

``kind`` is ``closed``, ``open``, ``pairs`` or ``items``; ``address`` says where to. See the function of that name for the rest.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import sub
from typing import Any

from bench.load import http2
from bench.load.items import Streams
from bench.load.loops import ClosedLoop, ClosedUnary, OpenUnary, Tally, drive, now
from bench.load.messages import ECHO, ITEMS, echo_request, framed, items_request
from bench.load.pairs import ClosedPairs
from bench.load.wire import Connection
from bench.measure.errors import MeasurementError
from bench.report.statistics import closed_loop_ms, open_loop_ms, quantile

CONNECTIONS_MAX = 8

Answer = dict[str, float]


@contextmanager
def connections_to(address: str, concurrency: int) -> Iterator[list[Connection]]:
    """As many connections as callers, up to a few."""
    opened = [Connection(address) for _ in range(min(CONNECTIONS_MAX, concurrency))]
    try:
        yield opened
    finally:
        for one in opened:
            one.close()


def summary(tally: Tally, since: float, quantiles: Callable[[Sequence[float], Sequence[float]], Answer]) -> Answer:
    """What came of calls, if none failed. Those that were due before ``since`` are left out of all but their number.

    Raises:
        MeasurementError: Some did.
    """
    took_s = now() - since
    count = len(tally.due)
    counted = [(due, ended) for due, ended in zip(tally.due, tally.ended, strict=True) if due >= since]
    if tally.failed or not counted:
        raise MeasurementError(f"{tally.failed} of {count + tally.failed} calls failed")
    due, ended = zip(*counted, strict=True)
    return {"requests": count, "seconds": took_s, "req_s": len(due) / took_s, **quantiles(due, ended)}


def closed(address: str, concurrency: int, seconds: float, size: int, warm_s: float = 0.0) -> Answer:
    """Echoes of ``size`` bytes by so many callers at once, for so long."""
    message = framed(echo_request(size))
    block = http2.grpc_headers(address, ECHO)

    def make(opened: Sequence[Connection]) -> ClosedLoop:
        return ClosedUnary(opened, concurrency, block, message, len(message))

    return run_closed(address, concurrency, seconds, warm_s, make)


def pairs(address: str, concurrency: int, seconds: float, size: int, application: str, warm_s: float = 0.0) -> Answer:
    """Reserve, then call with the token: one pair counts as one request."""
    echo = echo_request(size)

    def make(opened: Sequence[Connection]) -> ClosedLoop:
        return ClosedPairs(opened, concurrency, application, echo)

    return run_closed(address, concurrency, seconds, warm_s, make)


def run_closed(
    address: str, concurrency: int, seconds: float, warm_s: float, make: Callable[[Sequence[Connection]], ClosedLoop]
) -> Answer:
    """Runs a closed loop over connections of its own."""
    with connections_to(address, concurrency) as opened:
        load = make(opened)
        start = drive(opened, load, warm_s + seconds)
    return summary(load.tally, start + warm_s, lambda due, ended: closed_loop_ms(map(sub, ended, due)))


def open_(address: str, rate_s: float, seconds: float, size: int, warm_s: float = 0.0) -> Answer:
    """Echoes by a schedule of ``rate_s`` calls a second; each is timed from when it was due."""
    message = framed(echo_request(size))
    block = http2.grpc_headers(address, ECHO)
    count = max(1, int(rate_s * (warm_s + seconds)))
    with connections_to(address, CONNECTIONS_MAX) as opened:
        load = OpenUnary(opened, block, message, len(message), rate_s=rate_s, count=count)
        start = drive(opened, load, warm_s + seconds)
    return summary(load.tally, start + warm_s, open_loop_ms)


def items(address: str, streams: int, count: int, size: int, every_ms: int) -> Answer:
    """``streams`` streams at once, of ``count`` items each, one every ``every_ms``. One item counts as one request."""
    message = framed(items_request(count, size, every_ms))
    block = http2.grpc_headers(address, ITEMS)
    with connections_to(address, streams) as opened:
        load = Streams(opened, block, message, item_size=len(framed(echo_request(size))), items=count, streams=streams)
        start = drive(opened, load, 0.0)
    took_s = now() - start
    broken = sum(not one.whole for one in load.streams)
    if broken:
        raise MeasurementError(f"{broken} of {streams} streams did not end with their last item")
    gaps = load.gaps_s()
    return {
        "requests": streams * count,
        "seconds": took_s,
        "items_s": streams * count / took_s,
        "gap_p50_ms": quantile(gaps, 0.5) * 1000,
        "gap_p99_ms": quantile(gaps, 0.99) * 1000,
    }


KINDS: dict[str, Callable[..., Answer]] = {"closed": closed, "open": open_, "pairs": pairs, "items": items}


def offer(question: dict[str, Any]) -> Answer:
    """Offers one load; what came of it, and the CPU seconds that it cost here."""
    before = os.times()
    answer = KINDS[question.pop("kind")](**question)
    after = os.times()
    return {**answer, "cpu_s": (after.user - before.user) + (after.system - before.system)}


def main() -> None:
    gc.disable()  # Nothing here is a cycle, and a pause of ours would count as the server's.
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = dict(offer(json.loads(line)))
        except (MeasurementError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
