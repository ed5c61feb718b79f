"""What rows are made of: the shared servers, how long and how wide to measure, and the ways to take a sample."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.load import h2load, native
from bench.load.h2load import Request
from bench.load.messages import ECHO, echo_request
from bench.measure.processes import CpuMeter, children_s
from bench.report.figures import Case, Figure, Sample
from bench.report.statistics import closed_loop_ms
from bench.targets.servers import Servers
from bench.targets.target import Target

ECHO_BYTES = 100
TITLES = {
    "bare": "bare grpc.aio server",
    "naive": "naive grpc.aio two-hop proxy",
    "router": "through the router",
    "replica": "replica called directly",
    "embedded": "embedded router",
    "envoy_aio": "Envoy, then grpc.aio",
    "envoy_core": "Envoy, then our replica",
}
"""What targets are called in a report."""
VALUES = ("req_s", "items_s", "p50_ms", "p99_ms", "gap_p50_ms", "gap_p99_ms")
WARM_S = 0.1
"""What closed loops have behind them before it counts; as h2load."""

Asked = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Take = Callable[[float], Awaitable[Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        concurrencies: Callers at once, where a row says so.
        replicas: Replicas that are started where starts are measured, the most of them last.
        idle_s: How long an idle cluster is watched.
        items: Items of each stream.
        streams: Streams at once.
        payload_bytes: Of a large message.
    """

    concurrencies: Sequence[int] = (1, 64)
    replicas: Sequence[int] = (10, 50)
    idle_s: float = 10.0
    items: int = 200
    streams: int = 100
    payload_bytes: int = 10 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a row may use."""

    servers: Servers
    size: Size

    async def offered(self, target: Target, question: dict[str, Any]) -> Sample:
        """Has a generator on plain sockets offer a load to a target: the one in C if it can, else the one in Python.

        What the load itself costs is ``load_us``, and no part of the target's CPU time.
        """
        asked = {"address": target.address, **question}
        if question["kind"] in native.KINDS and (generator := await self.servers.native()) is not None:
            ask: Asked = partial(native.offer, generator)
        else:
            ask = (await self.servers.offer()).ask
        meter = CpuMeter(target.processes)
        answer = await ask(asked)
        cpu_us = meter.per_request_us(answer["requests"])
        values = {name: answer[name] for name in VALUES if name in answer}
        return Sample({**values, "load_us": answer["cpu_s"] / answer["requests"] * 1e6}, cpu_us)

    async def called(self, callers: Asked, target: Target, **question: Any) -> Sample:
        """Has Python callers call a target; what they cost themselves is a part of it."""
        meter = CpuMeter(target.processes)
        answer = await callers(question)
        requests = answer["requests"]
        cpu_us = {"caller": answer["cpu_s"] / requests * 1e6, **meter.per_request_us(requests)}
        return Sample({name: answer[name] for name in VALUES if name in answer}, cpu_us)

    async def unary(self, target: Target, concurrency: int, seconds: float) -> Sample:
        """Echoes in a closed loop: by h2load if it is installed."""
        if h2load.available():
            return await self.posted(target, Request.grpc(ECHO, echo_request(ECHO_BYTES)), concurrency, seconds)
        question = {"kind": "closed", "concurrency": concurrency, "size": ECHO_BYTES}
        return await self.offered(target, {**question, "warm_s": WARM_S, "seconds": seconds})

    async def posted(self, target: Target, request: Request, concurrency: int, seconds: float) -> Sample:
        """Has h2load post a request to a target."""
        meter, beside = CpuMeter(target.processes), children_s()
        answered = await h2load.run(
            target.address, request, concurrency=concurrency, seconds=seconds, folder=self.servers.folder
        )
        requests = answered.requests * (seconds + h2load.WARM_UP_S) / seconds
        values = {"req_s": answered.requests / seconds, **closed_loop_ms(answered.taken_s)}
        load_us = (children_s() - beside) / requests * 1e6
        return Sample({**values, "load_us": load_us}, meter.per_request_us(requests))


@dataclass(frozen=True, slots=True)
class Row:
    """A set of cases that are measured in turn, and what is claimed of them.

    Attributes:
        name: For the command line.
        title: Heading in the report.
        text: What it is, in a sentence or two.
        cases: Prepares what is measured.
        figures: The claims, for the concurrencies that are measured.
        rounds_max: The most rounds, for what takes long; 0: as many as were asked for.
        rounds_times: How many times as many rounds as were asked for, for what one round says little of.
    """

    name: str
    title: str
    text: str
    cases: Callable[[Stage], Awaitable[Sequence[Case]]]
    figures: Callable[[Size], Sequence[Figure]]
    rounds_max: int = 0
    rounds_times: int = 1

    def rounds(self, asked: int) -> int:
        """How many there are, if so many were asked for."""
        wanted = asked * self.rounds_times
        return min(wanted, self.rounds_max) if self.rounds_max else wanted
