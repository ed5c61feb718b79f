"""Ray Serve beside us: its entrances, and its handles."""

from __future__ import annotations

from collections.abc import Sequence

from bench.load.h2load import Request
from bench.load.messages import ECHO, echo_request
from bench.report.figures import CPU, Case, Figure
from bench.rows import embedded
from bench.rows.stage import ECHO_BYTES, Row, Size, Stage, Take
from bench.targets.ray import Mode, RayServe
from bench.targets.target import Target

GRPC = Request.grpc(ECHO, echo_request(ECHO_BYTES), headers=("application: echo",))
HTTP = Request(path="/", body=b"x" * ECHO_BYTES, answer_bytes=ECHO_BYTES, headers=(), http1=True)
MODES = {Mode.DEFAULT: "default", Mode.FASTEST: "HAProxy and throughput-optimised"}
WAYS = {"remote": "DeploymentHandle.remote()", "reserved": "choose_replica + dispatch"}


async def cases(stage: Stage) -> Sequence[Case]:
    """Both modes of Ray Serve, each a cluster of its own, and serve-core, all up at the same time."""
    servers = stage.servers
    router = (await servers.cluster()).router
    rays = {mode: await servers.ray(mode) for mode in Mode}
    for one in rays.values():
        await one.ask({"ask": "callers"})
    ours = [case for case in await embedded.cases(stage) if case.name.partition("@")[0] in embedded.OURS]
    found = []
    for concurrency in stage.size.concurrencies:
        name = f"serve-core, through the router, {concurrency} concurrent"
        plain = Request.grpc(ECHO, echo_request(ECHO_BYTES))
        found.append(Case(f"router@{concurrency}", name, _posted(stage, router, plain, concurrency)))
        for mode, one in rays.items():
            found += _ray(stage, mode, one, concurrency)
    return [*found, *ours]


def _ray(stage: Stage, mode: Mode, one: RayServe, concurrency: int) -> Sequence[Case]:
    label, hop = MODES[mode], "proxy" if mode is Mode.DEFAULT else "haproxy"
    entrances = [
        Case(
            f"ray.{mode.value}.{entrance}@{concurrency}",
            f"Ray Serve, {entrance}, {label}, {concurrency} concurrent",
            _posted(stage, one.target(entrance, hop, "replica"), request, concurrency),
        )
        for entrance, request in (("grpc", GRPC), ("http", HTTP))
    ]
    handles = [
        Case(
            f"ray.{mode.value}.{way}@{concurrency}",
            f"Ray Serve, {title}, {label}, {concurrency} concurrent",
            _called(stage, one, way, concurrency),
        )
        for way, title in WAYS.items()
    ]
    return [*entrances, *handles]


def _posted(stage: Stage, target: Target, request: Request, concurrency: int) -> Take:
    return lambda seconds: stage.posted(target, request, concurrency, seconds)


def _called(stage: Stage, one: RayServe, way: str, concurrency: int) -> Take:
    target = one.target("grpc", "replica")
    return lambda seconds: stage.called(
        one.ask, target, ask="call", way=way, concurrency=concurrency, seconds=seconds, size=ECHO_BYTES
    )


def figures(size: Size) -> Sequence[Figure]:
    """Our entrance over each of Ray Serve's; over its handles our embedded router, and our own handles."""
    known = (
        ("router over Ray Serve's gRPC, default", "router", "ray.default.grpc", 25.0),
        ("router over Ray Serve's gRPC, fastest", "router", "ray.fastest.grpc", 5.0),
        ("router over Ray Serve's HTTP, default", "router", "ray.default.http", None),
        ("router over Ray Serve's HTTP, fastest", "router", "ray.fastest.http", 2.0),
        ("embedded router over DeploymentHandle.remote(), default", "embedded", "ray.default.remote", 40.0),
        ("embedded router over DeploymentHandle.remote(), fastest", "embedded", "ray.fastest.remote", 15.0),
        ("embedded reserve + dispatch over Ray's, default", "reserved", "ray.default.reserved", 30.0),
        ("embedded reserve + dispatch over Ray's, fastest", "reserved", "ray.fastest.reserved", 20.0),
        ("handle over DeploymentHandle.remote(), default", "handle", "ray.default.remote", None),
        ("handle over DeploymentHandle.remote(), fastest", "handle", "ray.fastest.remote", None),
        ("choose_replica + dispatch by handle over Ray's, default", "reserving_handle", "ray.default.reserved", None),
        ("choose_replica + dispatch by handle over Ray's, fastest", "reserving_handle", "ray.fastest.reserved", None),
    )
    rates = [
        Figure(
            title=f"{title}, requests/s at {concurrency}",
            case=f"{case}@{concurrency}",
            baseline=f"{baseline}@{concurrency}",
            measure="req_s",
            goal=goal if concurrency == 64 else None,
        )
        for concurrency in size.concurrencies
        for title, case, baseline, goal in known
    ]
    most = max(size.concurrencies)
    costs = [
        Figure(
            title=f"{title}, CPU a request at {most}",
            case=f"{case}@{most}",
            baseline=f"{baseline}@{most}",
            measure=CPU,
            at_most=True,
        )
        for title, case, baseline, _ in known
    ]
    return [*rates, *costs]


ROW = Row(
    "ray",
    "Ray Serve",
    "Echo of 100 bytes: entrances by h2load; Python callers in one process, which Ray Serve has in an actor, as many at once and with "
    "the same value on both sides. Fastest is HAProxy in front of the replicas (`RAY_SERVE_ENABLE_HA_PROXY=1`) with "
    "`RAY_SERVE_THROUGHPUT_OPTIMIZED=1`.",
    cases,
    figures,
)
